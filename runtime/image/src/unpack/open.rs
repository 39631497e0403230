//! Opens what is in a tree, without following anything and within one file system: what is mounted in a tree is not part of it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A directory, to be listed.
pub(super) fn dir(at: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    file(at, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

pub(super) fn file(at: impl AsFd, path: impl Arg, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    fs::openat2(at, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode, RESOLVE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_a_tree() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir(top.path().join("d")).unwrap();
        std::os::unix::fs::symlink("d", top.path().join("link")).unwrap();
        let fd = std::fs::File::open(top.path()).unwrap();
        assert!(dir(&fd, "d").is_ok() && dir(&fd, ".").is_ok());
        assert_eq!(dir(&fd, "link").unwrap_err(), Errno::NOTDIR);
        assert_eq!(dir(&fd, "link/.").unwrap_err(), Errno::LOOP);
        assert_eq!(dir(&fd, "..").unwrap_err(), Errno::XDEV);
        assert_eq!(dir(&fd, "/etc").unwrap_err(), Errno::XDEV);
    }
}
