//! Which layers a directory of a merged view comes from: what an overlay would find.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::content;
use super::protocol::Fault;

#[derive(Clone, Copy)]
pub(super) struct Part {
    pub layer: usize,
    /// Everybody may search the layer's directories that lead here, this one included.
    pub searchable: bool,
}

/// Where the directory `name`, which the first part has, goes on: in each lower part that has it too, until something
/// hides the rest.
pub(super) fn merged<'a>(
    parts: impl Iterator<Item = (&'a OwnedFd, &'a Part)>,
    name: &[u8],
    path: &[u8],
) -> Result<Vec<Part>, Fault> {
    let failed = |e| Fault::io("reading", path, e);
    let mut parts = parts.peekable();
    let mut merged = Vec::new();
    while let Some((dir, part)) = parts.next() {
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed(error)),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            break;
        }
        merged.push(Part { layer: part.layer, searchable: part.searchable && stat.st_mode & 0o001 != 0 });
        if parts.peek().is_some() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = fs::openat(dir, name, flags, Mode::empty()).map_err(failed)?;
            if content::is_opaque(dir.as_fd()).map_err(failed)? {
                break;
            }
        }
    }
    Ok(merged)
}

pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
