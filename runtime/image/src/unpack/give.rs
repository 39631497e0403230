//! Gives a tree to another range of ids: owners, and what else of a file names ids.
//!
//! All ranges are mapped here, one after the other, and an id keeps its place in its range. So it does not matter to
//! which range a file belongs, and what an interruption has left half done is done by doing it again. What a new owner
//! clears, set-id bits and capabilities, is noted in a file at the top before, where no tenant can reach it. Nobody runs
//! in the tree meanwhile; it is hostile all the same: nothing is followed, and no more is open than the tree is deep.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::path::Arg;
use serde::{Deserialize, Serialize};

use super::idmap::RANGE;
use super::meta::ROOT_ID;
use super::protocol::Fault;
use super::{open, xattr};

/// Deeper trees are refused, as they are by what measures storage: each level holds a descriptor.
const MAX_DEPTH: usize = 900;
/// The size of an attribute that names ids: an access list of the most entries that file systems keep.
const MAX_ATTRIBUTE: usize = 64 << 10;
/// At the top of a tree while it is given: it belongs to no range as a whole then.
pub const GIVING: &str = ".cordium-giving";
const NAME: &[u8] = GIVING.as_bytes();
const MAX_NOTES: u64 = 64 << 20;
const ACCESS_LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Which ids the tree is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shift {
    pub uids: Place,
    pub gids: Place,
}

/// Among the ids of one kind: ranges of [`RANGE`], mapped one after the other from [`ROOT_ID`] on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// All of them together.
    pub count: u32,
    /// The first of the range that is to own everything.
    pub target: u32,
}

impl Place {
    /// The id that has the place of `id` in the target range; ids of no range stay.
    fn of(&self, id: u32) -> u32 {
        match id.checked_sub(ROOT_ID) {
            Some(nth) if nth < self.count => self.target + nth % RANGE,
            _ => id,
        }
    }
}

/// Gives everything in `top`, which no tenant sees, to the target; says to how many files something was done.
pub(crate) fn tree(top: BorrowedFd<'_>, shift: Shift) -> Result<u64, Fault> {
    let mut notes = Notes::open(top)?;
    let mut given = 0;
    let root = open_dir(top, c".")?;
    let mut stack = vec![read(&root)?];
    while let Some(dir) = stack.last_mut() {
        let entry = match dir.read() {
            Some(entry) => entry.map_err(|e| Fault::io("listing", b"a directory", e))?,
            None => {
                stack.pop();
                continue;
            }
        };
        let name: CString = entry.file_name().to_owned();
        if [&b"."[..], b"..", NAME].contains(&name.as_bytes()) {
            continue;
        }
        let fd = dir.fd().map_err(|e| Fault::io("listing", name.as_bytes(), e))?;
        let stat = match fs::statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return Err(Fault::io("looking at", name.as_bytes(), error)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let inner = match kind {
            FileType::Directory => Some(open_dir(fd, &name)?),
            FileType::RegularFile => Some(open_file(fd, &name)?),
            _ => None,
        };
        given += u64::from(match &inner {
            Some(inner) => give(inner.as_fd(), &name, &stat, shift, &mut notes)?,
            None => give_unopened(fd, &name, &stat, shift)?,
        });
        if let Some(inner) = inner.filter(|_| kind == FileType::Directory) {
            if stack.len() >= MAX_DEPTH {
                let reason = format!("directories are nested more than {MAX_DEPTH} deep");
                return Err(Fault::entry(name.as_bytes(), reason));
            }
            stack.push(read(&inner)?);
        }
    }
    notes.discard(top)?;
    Ok(given)
}

fn read(dir: &OwnedFd) -> Result<Dir, Fault> {
    Dir::read_from(dir).map_err(|e| Fault::io("listing", b"a directory", e))
}

fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Fault> {
    open::dir(dir, name).map_err(|e| Fault::io("opening", name.to_bytes(), e))
}

fn open_file(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Fault> {
    open::file(dir, name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        .map_err(|e| Fault::io("opening", name.to_bytes(), e))
}

/// The owner that a file is to have, if it has another.
fn owner(stat: &Stat, shift: Shift) -> Option<(Option<Uid>, Option<Gid>)> {
    let (uid, gid) = (shift.uids.of(stat.st_uid), shift.gids.of(stat.st_gid));
    (uid != stat.st_uid || gid != stat.st_gid).then(|| (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))))
}

fn give_unopened(dir: BorrowedFd<'_>, name: &CStr, stat: &Stat, shift: Shift) -> Result<bool, Fault> {
    let Some((uid, gid)) = owner(stat, shift) else { return Ok(false) };
    fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Fault::io("setting the owner of", name.to_bytes(), e))?;
    Ok(true)
}

/// The owner comes after what is not lost by it: where it is right, all that is right, too.
fn give(
    fd: BorrowedFd<'_>,
    name: &CStr,
    stat: &Stat,
    shift: Shift,
    notes: &mut Notes,
) -> Result<bool, Fault> {
    let (is_new, name) = (owner(stat, shift), name.to_bytes());
    if let Some((uid, gid)) = is_new {
        for list in ACCESS_LISTS {
            if let Some(value) = attribute(fd, list, name)? {
                let value = access_list(value, shift);
                fs::fsetxattr(fd, list, &value, XattrFlags::empty())
                    .map_err(|e| Fault::io("setting the access list of", name, e))?;
            }
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            let capability = attribute(fd, xattr::CAPABILITY, name)?;
            notes.note(Note { inode: stat.st_ino, mode: stat.st_mode & 0o7777, capability })?;
        }
        fs::fchown(fd, uid, gid).map_err(|e| Fault::io("setting the owner of", name, e))?;
    }
    // Also where an interruption came between the owner and this.
    if let Some(note) = notes.of(stat.st_ino) {
        fs::fchmod(fd, Mode::from_raw_mode(note.mode))
            .map_err(|e| Fault::io("setting the mode of", name, e))?;
        if let Some(value) = &note.capability {
            let given = xattr::with_root(value, |root| Some(shift.uids.of(root)));
            // The form without a root is for that of this very namespace, which owns nothing.
            let value = given.as_ref().unwrap_or(value);
            fs::fsetxattr(fd, xattr::CAPABILITY, value, XattrFlags::empty())
                .map_err(|e| Fault::io("setting the capabilities of", name, e))?;
        }
    }
    Ok(is_new.is_some())
}

/// What a new owner clears of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    inode: u64,
    mode: u32,
    capability: Option<Vec<u8>>,
}

/// Such notes on disk, one JSON line each.
struct Notes {
    file: File,
    all: HashMap<u64, Note>,
}

impl Notes {
    /// Takes up those of an attempt before. A line that was cut off is of a file that was not touched yet.
    fn open(top: BorrowedFd<'_>) -> Result<Self, Fault> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND;
        let fail = |error| Fault::io("opening", NAME, error);
        let mut file = File::from(open::file(top, GIVING, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?);
        let mut text = Vec::new();
        let read = (&mut file).take(MAX_NOTES).read_to_end(&mut text);
        read.map_err(|error| Fault::entry(NAME, error.to_string()))?;
        let lines = text.split(|byte| *byte == b'\n');
        let notes = lines.filter_map(|line| serde_json::from_slice::<Note>(line).ok());
        let all = notes.map(|note| (note.inode, note)).collect();
        Ok(Self { file, all })
    }

    /// Of files that have nothing to lose, nothing is noted.
    fn note(&mut self, note: Note) -> Result<(), Fault> {
        if (note.mode & 0o6000 == 0 && note.capability.is_none()) || self.all.contains_key(&note.inode) {
            return Ok(());
        }
        let fail = |reason: String| Fault::entry(NAME, reason);
        // Begins with the end of a line: the one before may have been cut off.
        let mut line = vec![b'\n'];
        serde_json::to_writer(&mut line, &note).map_err(|e| fail(e.to_string()))?;
        line.push(b'\n');
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        written.map_err(|e| fail(e.to_string()))?;
        self.all.insert(note.inode, note);
        Ok(())
    }

    fn of(&self, inode: u64) -> Option<&Note> {
        self.all.get(&inode)
    }

    fn discard(self, top: BorrowedFd<'_>) -> Result<(), Fault> {
        fs::unlinkat(top, GIVING, AtFlags::empty()).map_err(|error| Fault::io("removing", NAME, error))
    }
}

fn attribute(fd: BorrowedFd<'_>, attribute: impl Arg + Copy, name: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let mut value = vec![0; 1024];
    loop {
        match fs::fgetxattr(fd, attribute, &mut value) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < MAX_ATTRIBUTE => value = vec![0; MAX_ATTRIBUTE],
            Err(error) => return Err(Fault::io("reading an attribute of", name, error)),
        }
    }
}

/// A version, then entries of tag, permissions and id; only those of named users and groups have one.
fn access_list(mut value: Vec<u8>, shift: Shift) -> Vec<u8> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    for entry in value.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let place = match tag {
            USER => shift.uids,
            GROUP => shift.gids,
            _ => continue,
        };
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        entry[4..8].copy_from_slice(&place.of(id).to_le_bytes());
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PLACE: Place = Place { count: 3 * RANGE, target: ROOT_ID + RANGE };
    const SHIFT: Shift = Shift { uids: PLACE, gids: Place { target: ROOT_ID, ..PLACE } };

    #[test]
    fn ids_keep_their_place_from_whichever_range() {
        for (id, expected) in [
            (0, 0),
            (1, 65_537),
            (65_536, 131_072),
            (65_537, 65_537),
            (131_073 + 1000, 65_537 + 1000),
            (3 * 65_536, 131_072),
            // Of no range: the supervisor's own, and nobody.
            (3 * 65_536 + 1, 3 * 65_536 + 1),
            (u32::MAX, u32::MAX),
        ] {
            assert_eq!(PLACE.of(id), expected, "{id}");
        }
    }

    #[test]
    fn access_lists_name_ids_too() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat();
        let list = |uid: u32, gid: u32| {
            let own = entry(0x01, u32::MAX);
            [&2u32.to_le_bytes()[..], &own, &entry(0x02, uid), &entry(0x08, gid), &entry(0x20, u32::MAX)]
                .concat()
        };
        assert_eq!(access_list(list(1001, RANGE + 1001), SHIFT), list(RANGE + 1001, 1001));
        assert_eq!(access_list(vec![1], SHIFT), [1]);
    }

    #[test]
    fn what_a_new_owner_clears_is_noted_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let top = std::fs::File::open(dir.path()).unwrap();
        let note = |inode, mode| Note { inode, mode, capability: None };
        let mut notes = Notes::open(top.as_fd()).unwrap();
        notes.note(note(1, 0o644)).unwrap();
        notes.note(note(2, 0o4755)).unwrap();
        notes.note(Note { inode: 3, mode: 0o755, capability: Some(vec![1; 24]) }).unwrap();
        // The next one was cut off.
        notes.file.write_all(b"\n{\"inode\":4,").unwrap();
        drop(notes);
        let mut notes = Notes::open(top.as_fd()).unwrap();
        notes.note(note(5, 0o2755)).unwrap();
        // Cleared by now, but it is known how it was.
        notes.note(note(2, 0o755)).unwrap();
        drop(notes);
        let notes = Notes::open(top.as_fd()).unwrap();
        assert_eq!(notes.all.len(), 3);
        assert_eq!(notes.of(2), Some(&note(2, 0o4755)));
        assert!(notes.of(3).is_some_and(|note| note.capability.is_some()) && notes.of(5).is_some());
        notes.discard(top.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_tree_too_deep_is_refused_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).unwrap();
        let top = std::fs::File::open(dir.path()).unwrap();
        // Its owner is of no range.
        let nothing = Place { count: 0, target: ROOT_ID };
        let none = Shift { uids: nothing, gids: nothing };
        assert_eq!(tree(top.as_fd(), none).unwrap(), 0);
        let mut fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for _ in 0..=MAX_DEPTH {
            fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = fs::openat(&fd, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let fault = tree(top.as_fd(), none).unwrap_err();
        assert!(matches!(&fault, Fault::Entry { reason, .. } if reason.contains("900 deep")), "{fault:?}");
    }
}
