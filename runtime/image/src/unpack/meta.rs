//! Owner, mode, times and attributes of one entry, as they are to be on disk.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::protocol::Fault;
use super::tar::Entry;
use super::xattr;

/// The ids of the unpacking process: container root. What it creates belongs to it without a further call.
pub(crate) const ROOT_ID: u32 = 1;

#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
    pub mtime: Timespec,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// Image id `u` is id `u + 1` here. Ids beyond the map are an error: nobody could own the file.
    pub(crate) fn of(entry: &Entry, ids: u32) -> Result<Self, Fault> {
        let shift = |id: u64, what: &str| {
            u32::try_from(id).ok().filter(|id| *id < ids).map(|id| id + ROOT_ID).ok_or_else(|| {
                let reason = format!("its {what} id {id} is beyond the {ids} ids of a workspace");
                Fault::entry(&entry.path, reason)
            })
        };
        Ok(Self {
            uid: shift(entry.uid, "user")?,
            gid: shift(entry.gid, "group")?,
            mode: entry.mode & 0o7777,
            mtime: Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() },
            xattrs: entry
                .xattrs
                .iter()
                .filter_map(|(name, value)| xattr::keep(name, value).map(|(n, v)| (n.to_vec(), v)))
                .collect(),
        })
    }

    pub(crate) fn default_dir() -> Self {
        let mtime = Timespec { tv_sec: 0, tv_nsec: 0 };
        Self { uid: ROOT_ID, gid: ROOT_ID, mode: 0o755, mtime, xattrs: Vec::new() }
    }

    pub(crate) fn owned_by_root(&self) -> bool {
        self.uid == ROOT_ID && self.gid == ROOT_ID
    }

    fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    pub(crate) fn times(&self) -> Timestamps {
        Timestamps { last_access: self.mtime, last_modification: self.mtime }
    }

    pub(crate) fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
    }

    /// Everything but the times. The order matters: a new owner clears set-id bits and capabilities.
    pub(crate) fn apply(&self, fd: BorrowedFd<'_>, path: &[u8], inherits: bool) -> Result<(), Fault> {
        if inherits || !self.owned_by_root() {
            let (uid, gid) = self.owner();
            fs::fchown(fd, uid, gid).map_err(|e| Fault::io("setting the owner of", path, e))?;
        }
        if inherits || !self.owned_by_root() || self.mode & 0o6000 != 0 {
            fs::fchmod(fd, Mode::from_raw_mode(self.mode))
                .map_err(|e| Fault::io("setting the mode of", path, e))?;
        }
        for (name, value) in &self.xattrs {
            match fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                // Some file systems call it a full disk when a file's attributes are more than they can keep.
                Err(Errno::NOSPC | Errno::DQUOT | Errno::TOOBIG | Errno::RANGE)
                    if self.xattr_bytes() > 1024 =>
                {
                    return Err(Fault::entry(
                        path,
                        "its attributes are larger than the file system can keep",
                    ));
                }
                Err(error) => return Err(Fault::io("setting an attribute of", path, error)),
            }
        }
        Ok(())
    }
}
