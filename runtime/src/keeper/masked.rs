//! What a node that is itself a container leaves of `/proc` and `/sys`.
//!
//! Engines put read-only mounts and masks over parts of both. The kernel then refuses a user namespace a new, unmasked
//! one, unless one without masks is to be seen somewhere in the mount namespace: a pod is given the node's `/proc` at
//! another path (docs/pod.md), for `/sys` we make do with what there is.

use std::{fs, path::PathBuf};

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
    find_procfs(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Reads `/proc/self/mountinfo`: fields are `… root mount-point options - type source super-options`.
fn find_procfs(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, at, options) = (front.next()?, front.next()?, front.next()?);
        let writable = options.split(',').any(|option| option == "rw");
        (back.starts_with("proc ") && root == "/" && at != "/proc" && writable).then(|| at.into())
    })
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
        assert_eq!(find_procfs(masked), None);
        let given = format!("{masked}54 40 0:21 / /host/proc rw,relatime - proc proc rw\n");
        assert_eq!(find_procfs(&given), Some("/host/proc".into()));
    }
}
