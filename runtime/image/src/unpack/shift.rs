//! Owner and times of an entry of a view, from those of the layer's.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, Gid, Stat, Timespec, Timestamps, Uid};

use super::idmap::RANGE;
use super::meta::ROOT_ID;
use super::protocol::Fault;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Owner {
    /// In the range of the view. Whoever is not of home owns no file of a layer.
    pub(super) fn of(stat: &Stat, path: &[u8]) -> Result<Self, Fault> {
        let shift = |id: u32| (1..=RANGE).contains(&id).then(|| id + RANGE);
        match (shift(stat.st_uid), shift(stat.st_gid)) {
            (Some(uid), Some(gid)) => Ok(Self { uid, gid }),
            _ => Err(Fault::entry(path, "its owner is not of the range that layers belong to")),
        }
    }

    /// The ids of this process: what it creates belongs to it without a further call.
    pub(super) fn is_root(&self) -> bool {
        *self == Self { uid: ROOT_ID + RANGE, gid: ROOT_ID + RANGE }
    }

    pub(super) fn set(&self, fd: BorrowedFd<'_>, path: &[u8]) -> Result<(), Fault> {
        fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .map_err(|e| Fault::io("setting the owner of", path, e))
    }
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
    // The types differ from machine to machine.
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_of_home_and_become_those_of_the_range() {
        let of = |uid, gid| {
            let mut stat = fs::stat("/").unwrap();
            (stat.st_uid, stat.st_gid) = (uid, gid);
            Owner::of(&stat, b"x")
        };
        assert_eq!(of(1, 65_536).unwrap(), Owner { uid: 65_537, gid: 131_072 });
        assert!(of(1, 1).unwrap().is_root());
        assert!(!of(1, 2).unwrap().is_root());
        for (uid, gid) in [(0, 1), (1, 0), (65_537, 1), (1, u32::MAX)] {
            assert!(of(uid, gid).is_err(), "{uid}:{gid}");
        }
    }
}
