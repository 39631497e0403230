//! Attacks by mounting.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::CloneFlags,
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{
        FsOpenFlags, FsPickFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create, fsconfig_reconfigure,
        fsconfig_set_flag, fsopen, fspick, move_mount, open_tree,
    },
};

use crate::{Layer, Probe, places, sys};

const NONE: Option<&str> = None;
const AGENT: &str = "/run/cordium/bin/cordium-agent";

pub fn over_proc(probe: &mut Probe) {
    probe.child("own mounts", places::own_mounts, cover_proc);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), cover_proc);
}

fn cover_proc(probe: &mut Probe) {
    let dir = match places::scratch("proc") {
        Ok(dir) => dir,
        Err(error) => return probe.broken("making a directory", error),
    };
    // A mask must not be what keeps these files from being written: a fresh procfs has none.
    let fresh = mount(Some("proc"), &dir, Some("proc"), MsFlags::empty(), NONE);
    let place = if fresh.is_ok() { dir.as_path() } else { Path::new("/proc") };
    for file in ["sys/kernel/core_pattern", "sys/kernel/modprobe", "sysrq-trigger", "sys/vm/swappiness"] {
        let path = place.join(file);
        let opened = OpenOptions::new().write(true).open(&path);
        probe.refused(
            format!("write {file} of a fresh procfs"),
            Layer::Ownership,
            &[Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ENOENT],
            opened,
        );
    }
    let outer = fs::read_dir(place).map(|entries| {
        entries.flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count()
    });
    let seen = outer.map_err(|error| error.to_string()).and_then(|count| {
        let named = fs::read_to_string(place.join("1/comm")).unwrap_or_default();
        let line = format!("{count} processes, PID 1 is {:?}", named.trim());
        if named.trim() == "cordium-agent" { Ok(line) } else { Err(line) }
    });
    probe.confined("see the node's processes by a fresh procfs", Layer::PidNamespace, seen);
    let _ = umount2(&dir, MntFlags::MNT_DETACH);
    // A procfs of lies: what writes to it writes to the tenant's own files.
    let covered = mount(Some("lies"), "/proc", Some("tmpfs"), MsFlags::empty(), NONE)
        .map_err(io::Error::from)
        .and_then(|()| fs::create_dir_all("/proc/sys/kernel"))
        .and_then(|()| fs::write("/proc/sys/kernel/core_pattern", "|/escape"));
    let seen =
        covered.map(|()| "only in this mount namespace".to_owned()).or_else(|error| Ok(error.to_string()));
    probe.confined("cover /proc with a tmpfs", Layer::NamespaceScope, seen);
}

pub fn locked(probe: &mut Probe) {
    probe.child("own mounts", places::own_mounts, unlock);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), unlock);
}

fn unlock(probe: &mut Probe) {
    let locked = [Errno::EPERM, Errno::EROFS, Errno::EINVAL, Errno::EACCES, Errno::EBUSY];
    let bind = MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    let writable = mount(NONE, AGENT, NONE, bind, NONE)
        .map_err(io::Error::from)
        .and_then(|()| OpenOptions::new().write(true).open(AGENT).map(drop));
    probe.refused("remount the agent's bind writable", Layer::LockedMount, &[Errno::EPERM], writable);
    let tree = open_tree(CWD, AGENT, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    match tree {
        Ok(tree) => {
            let changed = sys::change_mount(tree.as_fd(), 0, 1, None);
            probe.refused("clear read-only on a clone of it", Layer::LockedMount, &[Errno::EPERM], changed);
            let up = openat(&tree, "..", OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
            probe.refused("leave by `..` of a detached clone", Layer::MountNamespace, &[Errno::ENOTDIR], up);
        }
        // In a nested user namespace a file that is locked below another mount may not even be cloned.
        Err(error) => {
            probe.refused("clone the agent's mount", Layer::LockedMount, &locked, Err::<(), _>(error))
        }
    }
    // What the kernel itself shows as the overlay's layers.
    for path in overlay_paths() {
        let opened = openat(CWD, path.as_str(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
        let gone = [Errno::ENOENT, Errno::ENOTDIR, Errno::EACCES];
        probe.refused(format!("open the overlay's layer {path}"), Layer::MountNamespace, &gone, opened);
    }
    let remounted = mount(NONE, "/", NONE, MsFlags::MS_REMOUNT, Some("volatile"));
    probe.refused(
        "change the overlay's own options",
        Layer::OuterMount,
        &[Errno::EPERM, Errno::EINVAL],
        remounted,
    );
    match fspick(CWD, "/", FsPickFlags::FSPICK_CLOEXEC) {
        Ok(picked) => {
            let changed = fsconfig_set_flag(&picked, "rw").and_then(|()| fsconfig_reconfigure(&picked));
            probe.refused(
                "reconfigure the overlay",
                Layer::OuterMount,
                &[Errno::EPERM, Errno::EINVAL],
                changed,
            );
        }
        Err(error) => {
            probe.refused("pick the overlay", Layer::OuterMount, &[Errno::EPERM], Err::<(), _>(error));
        }
    }
    let before = fs::metadata("/").map(|root| (root.dev(), root.ino())).ok();
    let unmounted = umount2("/", MntFlags::MNT_DETACH);
    let after = fs::metadata("/").map(|root| (root.dev(), root.ino())).ok();
    match unmounted {
        Err(_) => probe.refused("unmount the root", Layer::LockedMount, &locked, unmounted),
        Ok(()) => {
            let seen = format!("the root was {before:?} and is {after:?}");
            let seen = if before == after || after.is_none() { Ok(seen) } else { Err(seen) };
            probe.confined("unmount the root", Layer::NamespaceScope, seen);
        }
    }
}

/// `lowerdir`, `upperdir` and `workdir` of the root, as `mountinfo` tells them.
fn overlay_paths() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let line = mounts.lines().find(|line| line.contains(" - overlay ")).unwrap_or_default();
    let options = line.rsplit(' ').next().unwrap_or_default();
    let value = |option: &str| option.split_once('=').map(|(_, value)| value.to_owned());
    options
        .split(',')
        .filter(|option| ["lowerdir", "upperdir", "workdir"].iter().any(|key| option.starts_with(key)))
        .filter_map(value)
        .flat_map(|paths| paths.split(':').map(str::to_owned).collect::<Vec<_>>())
        .filter(|path| !path.is_empty())
        .collect()
}

/// Looks whether a directory is outside: it leads to one of the node's files, or to the node's root.
fn outside(probe: &Probe, root: impl AsFd) -> Result<String, String> {
    for marker in probe.facts.list("markers") {
        let path = format!("{}{}", "../".repeat(40), marker.trim_start_matches('/'));
        if openat(root.as_fd(), path, OFlags::PATH, Mode::empty()).is_ok() {
            return Err(format!("{marker} is in reach"));
        }
    }
    let found = rustix::fs::fstat(root.as_fd()).map_err(|error| error.to_string())?;
    let identity = format!("{}:{}", found.st_dev, found.st_ino);
    if probe.facts.get("root") == Some(&identity) {
        return Err("it is the node's root".to_owned());
    }
    Ok(format!("still inside, at {identity}"))
}

pub fn out_of_the_root(probe: &mut Probe) {
    probe.child("own mounts", places::own_mounts, leave_root);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), leave_root);
}

fn open_dir(path: &str) -> io::Result<std::os::fd::OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

#[allow(clippy::disallowed_methods, reason = "the child has one thread")]
fn leave_root(probe: &mut Probe) {
    let Ok(root) = open_dir("/") else { return probe.broken("opening the root", "it cannot be opened") };
    let seen = outside(probe, &root);
    probe.confined("`..` from the root, forty times", Layer::MountNamespace, seen);
    let dir = match places::scratch("root") {
        Ok(dir) => dir,
        Err(error) => return probe.broken("making a directory", error),
    };
    let tree = open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    match tree {
        Ok(tree) => {
            let seen = outside(probe, &tree);
            probe.confined("`..` from a detached clone of the root", Layer::MountNamespace, seen);
            let moved = move_mount(&tree, "", CWD, &dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
            let seen = match moved {
                Ok(()) => open_dir(&dir.display().to_string())
                    .map_err(|error| error.to_string())
                    .and_then(|there| outside(probe, there)),
                Err(error) => Ok(io::Error::from(error).to_string()),
            };
            probe.confined("attach the clone and leave by it", Layer::MountNamespace, seen);
            let _ = umount2(&dir, MntFlags::MNT_DETACH);
        }
        // Mounts that are locked together cannot be cloned one by one.
        Err(error) => {
            probe.refused("clone the root", Layer::LockedMount, &[Errno::EINVAL], Err::<(), _>(error))
        }
    }
    let moved = mount(Some("/"), &dir, NONE, MsFlags::MS_MOVE, NONE);
    let refused = [Errno::EINVAL, Errno::ELOOP, Errno::EBUSY];
    probe.refused("move the root elsewhere", Layer::LockedMount, &refused, moved);
    // A new root on a tmpfs; the old one below it; the old one away: what is left is what was mounted below.
    let pivoted = mount(Some("new"), &dir, Some("tmpfs"), MsFlags::empty(), NONE)
        .map_err(io::Error::from)
        .and_then(|()| fs::create_dir(dir.join("old")))
        .and_then(|()| Ok(nix::unistd::pivot_root(&dir, &dir.join("old"))?))
        .and_then(|()| Ok(nix::unistd::chdir("/")?))
        .and_then(|()| Ok(umount2("/old", MntFlags::MNT_DETACH)?));
    let seen = match (pivoted, open_dir("/")) {
        (Ok(()), Ok(there)) => outside(probe, there),
        (pivoted, _) => Ok(format!("{pivoted:?}")),
    };
    probe.confined("pivot to a tmpfs and look what is below", Layer::MountNamespace, seen);
    // The oldest of all: a root below, a descriptor above.
    let left = fs::create_dir_all("/below")
        .and_then(|()| Ok(nix::unistd::chroot("/below")?))
        .and_then(|()| Ok(nix::unistd::fchdir(&root)?))
        .and_then(|()| open_dir("."));
    let seen = match left {
        Ok(there) => outside(probe, there),
        Err(error) => Ok(error.to_string()),
    };
    probe.confined("chroot below, fchdir above", Layer::MountNamespace, seen);
}

/// Types that show or hold what is the machine's. Some are kernel modules that a machine may not have.
const HOST_TYPES: [&str; 23] = [
    "devtmpfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "efivarfs",
    "pstore",
    "configfs",
    "selinuxfs",
    "hugetlbfs",
    "fusectl",
    "ext4",
    "xfs",
    "btrfs",
    "vfat",
    "iso9660",
    "squashfs",
    "nfs",
    "nfs4",
    "cifs",
    "9p",
    "virtiofs",
    "ceph",
    "fuseblk",
];

pub fn host_file_systems(probe: &mut Probe) {
    probe.child("own mounts", places::own_mounts, mount_host_types);
    probe.child("nested user namespace", || places::nested(CloneFlags::CLONE_NEWNET), mount_host_types);
}

fn mount_host_types(probe: &mut Probe) {
    let dir = match places::scratch("types") {
        Ok(dir) => dir,
        Err(error) => return probe.broken("making a directory", error),
    };
    for kind in HOST_TYPES {
        let mounted = mount(NONE, &dir, Some(kind), MsFlags::empty(), NONE);
        if mounted == Err(Errno::ENODEV) {
            probe.unsupported(format!("mount {kind}"), "this kernel does not have it");
            continue;
        }
        let layer = Layer::UserNamespace;
        probe.refused(format!("mount {kind}"), layer, &[Errno::EPERM], mounted);
        if mounted.is_ok() {
            let _ = umount2(&dir, MntFlags::MNT_DETACH);
        }
        let made = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).and_then(fsconfig_create);
        probe.refused(format!("create {kind} by fsopen"), layer, &[Errno::EPERM], made);
    }
}

pub fn idmapped(probe: &mut Probe) {
    const IDMAP: u64 = 0x0010_0000;
    let own = match File::open("/proc/self/ns/user") {
        Ok(own) => own,
        Err(error) => return probe.broken("opening the own user namespace", error),
    };
    probe.child("own mounts", places::own_mounts, |probe| {
        for path in ["/workspace", "/", AGENT] {
            match open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC) {
                Ok(tree) => {
                    let mapped = sys::change_mount(tree.as_fd(), IDMAP, 0, Some(own.as_fd()));
                    let denied = [Errno::EPERM, Errno::EINVAL];
                    probe.refused(format!("map the ids of {path}"), Layer::OuterMount, &denied, mapped);
                }
                Err(error) => probe.broken(format!("cloning {path}"), io::Error::from(error)),
            }
        }
    });
}
