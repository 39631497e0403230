//! What must be remembered across runs: marks in a root-owned directory of the root file system.
//!
//! The directory is held through a private clone of its mount, so that marks can be changed after `/` became
//! read-only.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, openat, statat, unlinkat};
use rustix::mount::{OpenTreeFlags, open_tree};

pub const PATH: &str = "/var/lib/cordium";
/// ON_CREATE tasks, clones and dotfiles have begun and not ended.
pub const CREATING: &str = "creating";

pub struct StateDir(OwnedFd);

impl StateDir {
    pub fn open() -> io::Result<Self> {
        std::fs::create_dir_all(PATH)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let directory = match open_tree(CWD, PATH, flags) {
            Ok(clone) => clone,
            Err(_) => openat(CWD, PATH, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
        };
        Ok(Self(directory))
    }

    pub fn has(&self, mark: &str) -> bool {
        statat(&self.0, mark, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub fn set(&self, mark: &str) -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.0, mark, flags, Mode::from_raw_mode(0o600))?;
        self.sync()
    }

    pub fn clear(&self, mark: &str) -> io::Result<()> {
        match unlinkat(&self.0, mark, AtFlags::empty()) {
            Ok(()) => self.sync(),
            Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let directory =
            openat(&self.0, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(fsync(directory)?)
    }
}
