//! Attacks on cgroups: the limits of one's own, the tree above, and what the kernel runs when one is empty.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::CloneFlags,
};

use crate::{Layer, Probe, places};

const NONE: Option<&str> = None;
const CONTROLLERS: [&str; 6] = ["memory", "pids", "cpu", "cpu,cpuacct", "rdma", "freezer"];

pub fn escape(probe: &mut Probe) {
    probe.child("own mounts", places::own_mounts, attack);
    probe.child("nested user namespace", || places::nested(CloneFlags::empty()), attack);
}

fn attack(probe: &mut Probe) {
    let mut trees = vec![PathBuf::from("/sys/fs/cgroup")];
    let dir = match places::scratch("cgroups") {
        Ok(dir) => dir,
        Err(error) => return probe.broken("making a directory", error),
    };
    let mut mount_one = |name: &str, kind: &str, data: Option<&str>| {
        let place = dir.join(name.replace(',', "_"));
        let mounted = fs::create_dir_all(&place)
            .and_then(|()| Ok(mount(Some("cgroup"), &place, Some(kind), MsFlags::empty(), data)?));
        if mounted.is_ok() {
            trees.push(place);
        }
    };
    mount_one("unified", "cgroup2", NONE);
    for controller in CONTROLLERS {
        mount_one(controller, "cgroup", Some(controller));
    }
    let made =
        mount(Some("cgroup"), &dir, Some("cgroup"), MsFlags::empty(), Some("none,name=cordium-escape"));
    let denied = [Errno::EPERM, Errno::ENODEV, Errno::EBUSY, Errno::EINVAL];
    probe.refused("make a cgroup v1 hierarchy", Layer::UserNamespace, &denied, made);
    for tree in trees.iter().filter(|tree| tree.join("cgroup.procs").exists()) {
        limits(probe, tree);
    }
}

/// Attributes of the sandbox's own cgroup that would undo a limit or run a program.
const ATTRIBUTES: [&str; 17] = [
    "release_agent",
    "notify_on_release",
    "memory.max",
    "memory.high",
    "memory.limit_in_bytes",
    "memory.swap.max",
    "memory.oom_control",
    "memory.oom.group",
    "pids.max",
    "cpu.max",
    "cpu.cfs_quota_us",
    "cpu.shares",
    "io.max",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.max.descendants",
    "freezer.state",
];

fn limits(probe: &mut Probe, tree: &Path) {
    let shown = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let denied = [Errno::EACCES, Errno::EPERM, Errno::EROFS];
    for name in ATTRIBUTES {
        let path = tree.join(name);
        // Only in the machine's root cgroup is there a release_agent, and each hierarchy has attributes of its own.
        if path.exists() {
            let opened = fs::OpenOptions::new().write(true).open(path);
            probe.refused(format!("{shown}: write {name}"), Layer::Ownership, &denied, opened);
        }
    }
    let seen = if tree.join("release_agent").exists() { Err("there is one") } else { Ok("there is none") };
    let seen = seen.map(str::to_owned).map_err(str::to_owned);
    probe.confined(format!("{shown}: find a release_agent"), Layer::CgroupNamespace, seen);
    let above = tree.join("../cgroup.procs");
    let moved = fs::OpenOptions::new().write(true).open(&above).and_then(|mut procs| procs.write_all(b"0"));
    // `..` of a mount's root is where it is mounted: there is no cgroup above.
    let gone = [Errno::ENOENT, Errno::EACCES, Errno::EPERM];
    probe.refused(format!("{shown}: move into the cgroup above"), Layer::CgroupNamespace, &gone, moved);
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let outside: Vec<&str> = own.lines().filter(|line| line.contains(":/..")).collect();
    let seen =
        if outside.is_empty() { Ok("every path begins here".to_owned()) } else { Err(outside.join(" ")) };
    probe.confined(format!("{shown}: see a cgroup above"), Layer::CgroupNamespace, seen);
    // Below its own a sandbox may make cgroups where they are delegated to it; none of them has a `release_agent`.
    let below = tree.join("cordium-escape");
    let made = fs::create_dir(&below).and_then(|()| {
        let agent = fs::write(below.join("release_agent"), "/escape");
        fs::remove_dir(&below)?;
        agent
    });
    let expected = [Errno::EACCES, Errno::EPERM, Errno::ENOENT, Errno::EROFS];
    probe.refused(format!("{shown}: release_agent of a cgroup below"), Layer::Ownership, &expected, made);
}
