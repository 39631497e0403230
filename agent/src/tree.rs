//! Whole trees by directory descriptor: chown and copy, without following a link or leaving the file system.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chmodat, chownat, fstat, mkdirat, openat,
    readlinkat, statat, symlinkat,
};

use crate::files::own;

const MAX_DEPTH: usize = 200;
const MAX_SKELETON: u64 = 64 << 20;

/// Makes `path` and its missing parents; those that are new belong to `uid` and `gid`.
pub fn make_owned(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_owned(parent, uid, gid)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => std::os::unix::fs::lchown(path, Some(uid), Some(gid)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives `root` and all that is below it on the same file system to `uid` and `gid`.
pub fn chown_tree(root: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let directory = open_dir(CWD, root)?;
    let status = fstat(&directory)?;
    if (status.st_uid, status.st_gid) != (uid, gid) {
        own(&directory, uid, gid)?;
    }
    chown_below(directory, status.st_dev, uid, gid, 0)
}

fn chown_below(directory: OwnedFd, device: u64, uid: u32, gid: u32, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("is nested more than 200 directories deep"));
    }
    for name in names(&directory)? {
        let status = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if status.st_dev != device {
            continue;
        }
        if (status.st_uid, status.st_gid) != (uid, gid) {
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(&directory, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if is_dir(&status) {
            chown_below(open_dir(&directory, name.as_c_str())?, device, uid, gid, depth + 1)?;
        }
    }
    Ok(())
}

/// Copies the files of `from` (directories, regular files, links) into the existing `to`; what is there stays.
pub fn copy_tree(from: &Path, to: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let mut budget = MAX_SKELETON;
    copy_below(open_dir(CWD, from)?, open_dir(CWD, to)?, Some((uid, gid)), &mut budget, 0)
}

/// As `copy_tree`, with the owners that the files have, and without what is mounted in `from`.
pub fn copy_image(from: &Path, to: &Path) -> io::Result<()> {
    let mut budget = MAX_SKELETON;
    copy_below(open_dir(CWD, from)?, open_dir(CWD, to)?, None, &mut budget, 0)
}

fn copy_below(
    from: OwnedFd,
    to: OwnedFd,
    owner: Option<(u32, u32)>,
    budget: &mut u64,
    depth: usize,
) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("is nested more than 200 directories deep"));
    }
    let device = fstat(&from)?.st_dev;
    for name in names(&from)? {
        let status = statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let (uid, gid) = match owner {
            Some(owner) => owner,
            None if is_dir(&status) && status.st_dev != device => continue,
            None => (status.st_uid, status.st_gid),
        };
        let mode = Mode::from_raw_mode(status.st_mode & 0o7777);
        let made = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => mkdirat(&to, &name, mode),
            FileType::Symlink => symlinkat(readlinkat(&from, &name, Vec::new())?, &to, &name),
            FileType::RegularFile => {
                *budget = budget
                    .checked_sub(status.st_size.try_into().unwrap_or(u64::MAX))
                    .ok_or_else(|| io::Error::other("holds more than 64 MiB"))?;
                copy_file(&from, &to, &name, mode)?;
                Ok(())
            }
            _ => continue,
        };
        match made {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        chownat(&to, &name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)?;
        if owner.is_none() && !FileType::from_raw_mode(status.st_mode).is_symlink() {
            chmodat(&to, &name, mode, AtFlags::empty())?;
        }
        if is_dir(&status) {
            let (from, to) = (open_dir(&from, name.as_c_str())?, open_dir(&to, name.as_c_str())?);
            copy_below(from, to, owner, budget, depth + 1)?;
        }
    }
    Ok(())
}

fn copy_file(from: &OwnedFd, to: &OwnedFd, name: &CStr, mode: Mode) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(to, name, flags, mode) {
        Ok(target) => io::copy(&mut source, &mut File::from(target)).map(drop),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// True when `path` is missing or an empty directory.
pub fn is_vacant(path: &Path) -> io::Result<bool> {
    match std::fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn open_dir<P: rustix::path::Arg>(at: impl std::os::fd::AsFd, name: P) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

fn names(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    Dir::read_from(directory)?
        .map(|entry| Ok(entry?.file_name().to_owned()))
        .filter(|name: &io::Result<CString>| {
            !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."))
        })
        .collect()
}

fn is_dir(status: &Stat) -> bool {
    FileType::from_raw_mode(status.st_mode) == FileType::Directory
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn links_are_chowned_and_copied_but_not_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "x").unwrap();
        std::fs::write(root.join("a/b/file"), "x").unwrap();
        symlink(&outside, root.join("a/link")).unwrap();
        chown_tree(&root, 1234, 1235).unwrap();
        assert_eq!(std::fs::metadata(outside.join("file")).unwrap().uid(), 0);
        assert_eq!(std::fs::metadata(&outside).unwrap().uid(), 0);
        assert_eq!(std::fs::symlink_metadata(root.join("a/link")).unwrap().uid(), 1234);
        assert_eq!(std::fs::metadata(root.join("a/b/file")).unwrap().gid(), 1235);

        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        std::fs::create_dir(copy.join("a")).unwrap();
        copy_tree(&root, &copy, 7, 8).unwrap();
        assert_eq!(std::fs::read_link(copy.join("a/link")).unwrap(), outside);
        assert_eq!(std::fs::metadata(copy.join("a/b/file")).unwrap().uid(), 7);
        assert_eq!(std::fs::metadata(outside.join("file")).unwrap().uid(), 0);
    }
}
