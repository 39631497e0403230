//! What a node that is itself a container leaves of `/proc` and `/sys`.
//!
//! Engines put read-only mounts and masks over parts of both. The kernel then refuses a user namespace a new, unmasked
//! one, unless one without masks is to be seen somewhere in the mount namespace: a pod is given the node's `/proc` at
//! another path (docs/pod.md), for `/sys` we make do with what there is.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// Where file systems are mounted on empty directories of sysfs, which the kernel overlooks.
const SYSFS_EMPTY: [&str; 9] = [
    "/sys/firmware/efi/efivars",
    "/sys/fs/bpf",
    "/sys/fs/cgroup",
    "/sys/fs/fuse/connections",
    "/sys/fs/pstore",
    "/sys/kernel/config",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// Whether the kernel would let the sandbox have a sysfs of its own. Where something unusual is mounted, it is tried with
/// the gateway's, which is nowhere attached: that takes longer than reading what is mounted.
pub(super) fn fresh_sysfs() -> bool {
    if sysfs_is_plain(&mountinfo()) {
        return true;
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tried = fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    });
    tried.is_ok()
}

fn sysfs_is_plain(mountinfo: &str) -> bool {
    let sys = Path::new("/sys");
    let is_there = mounts(mountinfo).any(|(root, at, options, kind)| {
        kind == "sysfs" && root == "/" && at == sys && options.split(',').any(|option| option == "relatime")
    });
    let overlooked = |at: &Path| SYSFS_EMPTY.iter().any(|empty| at.starts_with(empty));
    is_there && mounts(mountinfo).all(|(_, at, ..)| at == sys || !at.starts_with(sys) || overlooked(at))
}

/// Where else than at `/proc` the whole of a procfs is mounted writable.
pub(super) fn other_procfs() -> Option<PathBuf> {
    procfs(&mountinfo()).into_iter().find(|at| at != Path::new("/proc"))
}

/// Whether there is a procfs at all that the kernel takes for a model of a new one: writable, and nothing over parts of it.
pub(super) fn whole_procfs() -> bool {
    let mountinfo = mountinfo();
    procfs(&mountinfo).iter().any(|at| is_whole(&mountinfo, at))
}

fn mountinfo() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// Root, mount point, options and type of each line: fields are `… root mount-point options - type source super-options`.
fn mounts(mountinfo: &str) -> impl Iterator<Item = (&str, &Path, &str, &str)> {
    mountinfo.lines().filter_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        Some((front.next()?, Path::new(front.next()?), front.next()?, back.split(' ').next()?))
    })
}

/// Where a procfs is mounted from its root and writable.
fn procfs(mountinfo: &str) -> Vec<PathBuf> {
    mounts(mountinfo)
        .filter(|(root, _, options, kind)| {
            *kind == "proc" && *root == "/" && options.split(',').any(|option| option == "rw")
        })
        .map(|(_, at, ..)| at.to_owned())
        .collect()
}

/// The kernel overlooks what is mounted on its own empty directories, of which procfs has one that is used.
fn is_whole(mountinfo: &str, at: &Path) -> bool {
    let harmless = at.join("sys/fs/binfmt_misc");
    mounts(mountinfo).all(|(_, other, ..)| other == at || !other.starts_with(at) || other == harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_procfs_is_a_whole_and_writable_one() {
        let masked = "\
50 40 0:51 / /proc rw,nosuid - proc proc rw
51 50 0:51 /sys /proc/sys ro,nosuid - proc proc rw
52 40 0:52 / /readonly ro - proc proc rw
53 40 0:53 / /sys ro,nosuid - sysfs sysfs ro\n";
        assert_eq!(procfs(masked), [PathBuf::from("/proc")]);
        assert!(!is_whole(masked, Path::new("/proc")));
        let given = format!("{masked}54 40 0:21 / /host/proc rw,relatime - proc proc rw\n");
        assert_eq!(procfs(&given).last(), Some(&PathBuf::from("/host/proc")));
        assert!(is_whole(&given, Path::new("/host/proc")));
        let usual = format!("{given}55 54 0:40 / /host/proc/sys/fs/binfmt_misc rw - binfmt_misc b rw\n");
        assert!(is_whole(&usual, Path::new("/host/proc")));
    }

    #[test]
    fn a_sysfs_under_masks_is_not_plain() {
        let usual = "\
53 40 0:53 / /sys rw,nosuid,relatime - sysfs sysfs rw
54 53 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
55 53 0:31 / /sys/kernel/security rw - securityfs s rw\n";
        assert!(sysfs_is_plain(usual));
        assert!(!sysfs_is_plain(&format!("{usual}56 53 0:32 / /sys/firmware ro - tmpfs t ro\n")));
        assert!(!sysfs_is_plain(&usual.replace("relatime", "noatime")));
        assert!(!sysfs_is_plain(""));
    }
}
