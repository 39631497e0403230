//! Removes trees by descriptor, without following links and without recursion.
//!
//! Depth costs nothing: a subdirectory that is not empty is moved up to the top and emptied there, so that
//! two descriptors are enough for a tree of any depth.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, RenameFlags};
use rustix::io::Errno;

use super::open;
use super::protocol::Fault;

/// Removes everything in `top`, not `top` itself.
pub(crate) fn empty(top: BorrowedFd<'_>) -> Result<(), Fault> {
    let top = open_dir(top, b".")?;
    let mut moved: u64 = 0;
    loop {
        let mut subdirs = Vec::new();
        let mut seen = false;
        for name in names(top.as_fd())? {
            seen = true;
            if !unlink(top.as_fd(), &name)? {
                subdirs.push(name);
            }
        }
        for name in subdirs {
            let dir = open_dir(top.as_fd(), &name)?;
            for child in names(dir.as_fd())? {
                if unlink(dir.as_fd(), &child)? || rmdir(dir.as_fd(), &child)? {
                    continue;
                }
                loop {
                    moved += 1;
                    let target = format!(".cordium-removing-{moved}");
                    match fs::renameat_with(
                        &dir,
                        child.as_slice(),
                        &top,
                        target.as_str(),
                        RenameFlags::NOREPLACE,
                    ) {
                        Ok(()) => break,
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(Fault::io("moving", &child, error)),
                    }
                }
            }
            rmdir(top.as_fd(), &name)?;
        }
        if !seen {
            return Ok(());
        }
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Fault> {
    open::dir(dir, name).map_err(|e| Fault::io("opening", name, e))
}

fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Fault> {
    let mut list = Vec::new();
    for entry in Dir::read_from(dir).map_err(|e| Fault::io("listing", b".", e))? {
        let entry = entry.map_err(|e| Fault::io("listing", b".", e))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            list.push(name.to_vec());
            // Bounded memory for a directory of any size; the caller comes back.
            if list.len() >= 65_536 {
                break;
            }
        }
    }
    Ok(list)
}

/// Whether the name is gone; false if it is a directory.
fn unlink(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Fault> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(Fault::io("removing", name, error)),
    }
}

/// Whether the directory is gone; false if it is not empty.
fn rmdir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<bool, Fault> {
    match fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(Fault::io("removing", name, error)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::os::unix::fs::symlink;

    #[test]
    fn deep_wide_and_linked_trees_go_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("link")).unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        symlink(outside.path(), dir.path().join("a/b/link")).unwrap();
        for i in 0..500 {
            std::fs::write(dir.path().join(format!("a/{i}")), "").unwrap();
        }
        std::fs::write(dir.path().join(".cordium-removing-1"), "").unwrap();
        let mut fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for _ in 0..3000 {
            fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = fs::openat(&fd, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let top = std::fs::File::open(dir.path()).unwrap();
        empty(top.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(outside.path().join("keep").exists());
    }
}
