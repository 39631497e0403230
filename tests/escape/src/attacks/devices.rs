//! Nodes of devices, and files that stand for the kernel's memory.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    sched::CloneFlags,
    sys::stat::{Mode, SFlag, makedev, mknod},
};

use crate::{Layer, Probe, places};

/// Disks by the usual majors, memory, ports, the kernel's log, tun, fuse, kvm, loop control.
const NODES: [(&str, SFlag, u64, u64); 12] = [
    ("sda", SFlag::S_IFBLK, 8, 0),
    ("vda", SFlag::S_IFBLK, 254, 0),
    ("nvme0n1", SFlag::S_IFBLK, 259, 0),
    ("xvda", SFlag::S_IFBLK, 202, 0),
    ("loop0", SFlag::S_IFBLK, 7, 0),
    ("mem", SFlag::S_IFCHR, 1, 1),
    ("port", SFlag::S_IFCHR, 1, 4),
    ("kmsg", SFlag::S_IFCHR, 1, 11),
    ("fuse", SFlag::S_IFCHR, 10, 229),
    ("kvm", SFlag::S_IFCHR, 10, 232),
    ("loop-control", SFlag::S_IFCHR, 10, 237),
    ("tun", SFlag::S_IFCHR, 10, 200),
];

/// What a sandbox's `/dev` may hold: null, zero, full, random, urandom, tty, ptmx and terminals.
fn is_harmless(major: u64, minor: u64) -> bool {
    matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0..=2) | (136, _))
}

pub fn nodes(probe: &mut Probe) {
    let dirs = ["/tmp", "/dev", "/workspace", "/dev/shm"];
    make_nodes(probe, &dirs);
    probe.child(
        "nested user namespace",
        || places::nested(CloneFlags::empty()),
        |probe| make_nodes(probe, &dirs[..1]),
    );
    let mut foreign = Vec::new();
    look(Path::new("/dev"), 0, &mut foreign);
    let seen = if foreign.is_empty() { Ok("only harmless ones".to_owned()) } else { Err(foreign.join(", ")) };
    probe.confined("use the nodes in /dev", Layer::NoSuchThing, seen);
}

fn make_nodes(probe: &mut Probe, dirs: &[&str]) {
    for dir in dirs.iter().filter(|dir| Path::new(dir).is_dir()) {
        for (name, kind, major, minor) in NODES {
            let path = Path::new(dir).join(format!(".cordium-escape-{name}"));
            let made = mknod(&path, kind, Mode::from_bits_truncate(0o600), makedev(major, minor));
            let expected = [Errno::EPERM, Errno::EACCES];
            probe.refused(format!("make {name} in {dir}"), Layer::UserNamespace, &expected, made);
            let _ = fs::remove_file(&path);
        }
    }
}

fn look(dir: &Path, depth: usize, foreign: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        let kind = meta.file_type();
        if kind.is_dir() && depth < 4 {
            look(&entry.path(), depth + 1, foreign);
        }
        let (major, minor) = (nix::sys::stat::major(meta.rdev()), nix::sys::stat::minor(meta.rdev()));
        if (kind.is_char_device() && !is_harmless(major, minor)) || kind.is_block_device() {
            foreign.push(format!("{} {major}:{minor}", entry.path().display()));
        }
    }
}

pub fn kernel_memory(probe: &mut Probe) {
    let denied = [Errno::EACCES, Errno::EPERM, Errno::ENOENT];
    for path in [
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/kpagecount",
        "/proc/kpageflags",
        "/proc/vmcore",
        "/proc/slabinfo",
        "/proc/vmallocinfo",
        "/proc/timer_list",
        "/dev/mem",
        "/dev/kmem",
        "/dev/kmsg",
        "/dev/port",
        "/sys/kernel/debug/sched",
        "/sys/kernel/tracing/trace",
        "/sys/kernel/security/lsm",
        "/sys/firmware/efi/efivars",
        "/sys/fs/pstore",
    ] {
        probe.refused(format!("read {path}"), Layer::Ownership, &denied, first_byte(path));
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let told = symbols.lines().find(|line| !line.starts_with("0000000000000000")).map(str::to_owned);
    let seen = told.map_or_else(|| Ok("no address is told".to_owned()), |line| Err(format!("told: {line}")));
    probe.confined("read kernel addresses in /proc/kallsyms", Layer::UserNamespace, seen);
}

fn first_byte(path: &str) -> io::Result<()> {
    if Path::new(path).is_dir() {
        return match fs::read_dir(path)?.next() {
            Some(_) => Ok(()),
            None => Err(Errno::ENOENT.into()),
        };
    }
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?.read(&mut [0]).map(drop)
}
