//! Settings of the kernel that have it run programs, and all others that a file stands for.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::CloneFlags,
};

use crate::{Layer, Probe, places};

const NONE: Option<&str> = None;
/// Owned by an id that is not mapped, or on a read-only mount.
const DENIED: [Errno; 3] = [Errno::EACCES, Errno::EPERM, Errno::EROFS];

/// Writes what is there already: where it works, nothing changes.
fn rewrite(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let value = fs::read(path)?;
    file.write_all(&value)
}

/// Tries to write a setting of the machine's.
fn try_to_write(probe: &mut Probe, path: &str) {
    if !Path::new(path).exists() {
        return probe.unsupported(format!("write {path}"), "this kernel does not have it");
    }
    probe.refused(format!("write {path}"), Layer::Ownership, &DENIED, rewrite(Path::new(path)));
}

pub fn core_pattern(probe: &mut Probe) {
    let tries = |probe: &mut Probe| {
        for file in
            ["kernel/core_pattern", "kernel/core_pipe_limit", "kernel/core_uses_pid", "fs/suid_dumpable"]
        {
            try_to_write(probe, &format!("/proc/sys/{file}"));
        }
    };
    tries(probe);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), tries);
}

pub fn helpers(probe: &mut Probe) {
    let tries = |probe: &mut Probe| {
        for path in [
            "/sys/kernel/uevent_helper",
            "/proc/sys/kernel/hotplug",
            "/proc/sys/kernel/modprobe",
            "/proc/sys/kernel/poweroff_cmd",
            "/proc/sys/kernel/usermodehelper/bset",
            "/proc/sys/kernel/usermodehelper/inheritable",
        ] {
            try_to_write(probe, path);
        }
    };
    tries(probe);
    probe.child("own mounts, /sys writable", || places::own_mounts().and_then(|()| writable_sysfs()), tries);
    probe.child("nested user namespace", || places::nested(CloneFlags::CLONE_NEWNET), tries);
}

fn writable_sysfs() -> io::Result<()> {
    let remounted = mount(NONE, "/sys", NONE, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, NONE);
    // Where even that is refused, the attack goes on with /sys as it is.
    let _ = remounted.or_else(|_| mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), NONE));
    Ok(())
}

pub fn sysrq(probe: &mut Probe) {
    let tries = |probe: &mut Probe| {
        let trigger = "/proc/sysrq-trigger";
        if Path::new(trigger).exists() {
            let opened = OpenOptions::new().write(true).open(trigger);
            probe.refused(format!("open {trigger}"), Layer::Ownership, &DENIED, opened);
        } else {
            probe.unsupported(format!("open {trigger}"), "this kernel does not have it");
        }
        try_to_write(probe, "/proc/sys/kernel/sysrq");
    };
    tries(probe);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), tries);
}

/// What is kept for each namespace; the sandbox has its own.
const OWN_SETTINGS: [&str; 16] = [
    "net/",
    "user/",
    "fs/mqueue/",
    "kernel/shm",
    "kernel/msg",
    "kernel/sem",
    "kernel/auto_msgmni",
    "kernel/hostname",
    "kernel/domainname",
    "kernel/ns_last_pid",
    "kernel/pid_max",
    "kernel/cap_last_cap",
    "vm/memfd_noexec",
    "kernel/shm_next_id",
    "kernel/msg_next_id",
    "kernel/sem_next_id",
];

pub fn all_of_proc_sys(probe: &mut Probe) {
    let root = Path::new("/proc/sys");
    let mut files = Vec::new();
    walk(root, 0, &mut files);
    let foreign: Vec<PathBuf> = files
        .iter()
        .filter(|path| {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            !OWN_SETTINGS.iter().any(|own| name.starts_with(own))
        })
        .filter(|path| rewrite(path).is_ok())
        .cloned()
        .collect();
    let seen = match foreign.as_slice() {
        [] => Ok(format!("{} files, none of another's can be written", files.len())),
        _ => Err(format!("written: {foreign:?}")),
    };
    let seen = if files.len() > 50 { seen } else { Err(format!("only {} files were found", files.len())) };
    probe.confined("write every setting that is not of an own namespace", Layer::Ownership, seen);
    // One of an own namespace is changed in earnest: the driver looks at the node's.
    let forward = Path::new("/proc/sys/net/ipv4/ip_forward");
    let changed = fs::write(forward, "1").and_then(|()| fs::write(forward, "0"));
    probe.confined("switch forwarding on and off", Layer::NamespaceScope, Ok(format!("{changed:?}")));
}

pub fn all_of_sysfs(probe: &mut Probe) {
    let enter = || {
        places::own_mounts()?;
        writable_sysfs()
    };
    probe.child("own mounts", enter, |probe| {
        let mut files = Vec::new();
        walk(Path::new("/sys"), 0, &mut files);
        let own = |path: &Path| {
            ["/sys/devices/virtual/net/", "/sys/fs/cgroup/"].iter().any(|own| path.starts_with(own))
        };
        let written: Vec<&PathBuf> = files
            .iter()
            .filter(|path| !own(path) && OpenOptions::new().write(true).open(path).is_ok())
            .collect();
        let seen = match written.as_slice() {
            [] if files.len() > 100 => {
                Ok(format!("{} files, none of another's opens for writing", files.len()))
            }
            [] => Err(format!("only {} files were found", files.len())),
            _ => Err(format!("open for writing: {written:?}")),
        };
        probe.confined("open every file for writing", Layer::Ownership, seen);
    });
}

fn walk(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    const MAX_DEPTH: usize = 24;
    const MAX_FILES: usize = 200_000;
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < MAX_DEPTH {
            walk(&entry.path(), depth + 1, found);
        } else if kind.is_file() && found.len() < MAX_FILES {
            found.push(entry.path());
        }
    }
}

/// A user namespace may have a binfmt_misc of its own since Linux 6.7; its rules must stay in it.
pub fn binfmt_misc(probe: &mut Probe) {
    let magic = "CORDIUM-ESCAPE-MAGIC";
    let program = match places::scratch("binfmt").and_then(|dir| foreign_program(&dir, magic)) {
        Ok(program) => program,
        Err(error) => return probe.broken("writing a program", error),
    };
    let machine = rewrite_register("/proc/sys/fs/binfmt_misc", magic);
    let denied = [Errno::EACCES, Errno::EPERM, Errno::EROFS, Errno::ENOENT];
    probe.refused("register with the machine's", Layer::Ownership, &denied, machine);
    probe.child(
        "nested user namespace",
        || places::nested(CloneFlags::empty()),
        |probe| {
            let dir = match places::scratch("binfmt-own") {
                Ok(dir) => dir,
                Err(error) => return probe.broken("making a directory", error),
            };
            let mounted = mount(Some("binfmt_misc"), &dir, Some("binfmt_misc"), MsFlags::empty(), NONE);
            match mounted {
                Ok(()) => {
                    let registered = rewrite_register(&dir.display().to_string(), magic);
                    let here = Command::new(&program).status().map(|status| status.success());
                    let seen = format!("registered: {registered:?}; the program runs here: {here:?}");
                    probe.confined("register with an own binfmt_misc", Layer::NamespaceScope, Ok(seen));
                }
                Err(Errno::ENODEV) => probe.unsupported("mount an own binfmt_misc", "this kernel has none"),
                Err(error) => {
                    let expected = [Errno::EPERM];
                    probe.refused(
                        "mount an own binfmt_misc",
                        Layer::UserNamespace,
                        &expected,
                        Err::<(), _>(error),
                    );
                }
            }
        },
    );
    let outside = Command::new(&program).status().map(drop);
    let none = [Errno::ENOEXEC];
    probe.refused("have it run a program outside that namespace", Layer::NamespaceScope, &none, outside);
}

fn foreign_program(dir: &Path, magic: &str) -> io::Result<PathBuf> {
    let path = dir.join("program");
    fs::write(&path, format!("{magic}\n\0"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn rewrite_register(dir: &str, magic: &str) -> io::Result<()> {
    let rule = format!(":cordium-escape:M::{magic}::/bin/true:");
    let mut register = File::options().write(true).open(Path::new(dir).join("register"))?;
    register.write_all(rule.as_bytes())
}
