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

/// Whether the kernel would let the sandbox have a sysfs of its own. Tried with the gateway's, which is nowhere attached.
pub(super) fn fresh_sysfs() -> bool {
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
}
