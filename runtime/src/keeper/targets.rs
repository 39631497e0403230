//! Where the plan's binds go: a path inside, as it is named, not where the image's links lead.
//!
//! The root file system is the image's and the tenant's. A link in it at a mount's target would move the mount: over
//! `/etc`, over the root, or over something of ours. Nothing of this workspace runs yet, so that what is found here is
//! what the mount will find; what is missing on the way is made when it is mounted.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

use crate::MOUNT_TARGET;

#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    #[error(
        "{MOUNT_TARGET} {target:?}: {at:?} is a symbolic link in the workspace's root; use a path without links, or an image without this one"
    )]
    Link { target: PathBuf, at: PathBuf },
    #[error("{MOUNT_TARGET} {target:?}: {at:?} in the workspace's root is not a directory; use another path")]
    NotDirectory { target: PathBuf, at: PathBuf },
    #[error("{MOUNT_TARGET} {target:?}: looking at {at:?}: {source}")]
    Look { target: PathBuf, at: PathBuf, source: io::Error },
}

/// Checks the target of one bind in the root file system that is mounted at `rootfs`. What is bound is a directory, or
/// a file.
pub(crate) fn check(rootfs: &Path, target: &Path, is_dir: bool) -> Result<(), TargetError> {
    let mut at = PathBuf::from("/");
    let look = |at: &Path, e: rustix::io::Errno| TargetError::Look {
        target: target.to_owned(),
        at: at.to_owned(),
        source: e.into(),
    };
    let open = |from: &dyn AsFd, name: &Path| -> rustix::io::Result<OwnedFd> {
        openat(from.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    };
    let mut directory = open(&CWD, rootfs).map_err(|e| look(&at, e))?;
    for part in target.iter().skip(1) {
        at.push(part);
        let found = match open(&directory, Path::new(part)) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(e) => return Err(look(&at, e)),
        };
        let mode = fstat(&found).map_err(|e| look(&at, e))?.st_mode;
        match FileType::from_raw_mode(mode) {
            FileType::Directory => directory = found,
            FileType::RegularFile if !is_dir && at == target => {}
            FileType::Symlink => return Err(TargetError::Link { target: target.to_owned(), at }),
            _ => return Err(TargetError::NotDirectory { target: target.to_owned(), at }),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_files_on_the_way_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("srv/deep")).unwrap();
        std::fs::create_dir(at("etc")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        for (link, to) in [
            ("absolute", "/etc"),
            ("up", "../../../../../.."),
            ("root", "/"),
            ("srv/deep/link", "../../etc"),
            ("dangling", "nowhere"),
            ("itself", "itself"),
        ] {
            symlink(to, at(link)).unwrap();
        }
        for good in ["/data", "/srv", "/srv/deep", "/srv/deep/new/er", "/etc/x"] {
            check(root.path(), Path::new(good), true).unwrap();
        }
        for (bad, found) in [
            ("/absolute", "/absolute"),
            ("/up", "/up"),
            ("/up/x", "/up"),
            ("/root/x", "/root"),
            ("/srv/deep/link", "/srv/deep/link"),
            ("/srv/deep/link/x/y", "/srv/deep/link"),
            ("/dangling", "/dangling"),
            ("/itself/x", "/itself"),
        ] {
            let error = check(root.path(), Path::new(bad), true).unwrap_err();
            assert!(matches!(&error, TargetError::Link { at, .. } if at == Path::new(found)), "{error}");
            assert!(error.to_string().starts_with(&format!("mount target {bad:?}: ")), "{error}");
        }
        check(root.path(), Path::new("/file"), false).unwrap();
        assert!(check(root.path(), Path::new("/file/x"), false).is_err());
        for bad in ["/file", "/file/x"] {
            let error = check(root.path(), Path::new(bad), true).unwrap_err();
            assert!(matches!(error, TargetError::NotDirectory { .. }), "{error}");
        }
    }
}
