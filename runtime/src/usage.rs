//! What a workspace's files take of the disk, and what the disk has left.
//!
//! The files belong to subordinate ids, so only a process in a user namespace that maps them may look: the keeper's
//! own child does. The tree is hostile: it is walked by descriptor, follows no link, and has bounds.

use std::{
    collections::HashSet,
    ffi::CString,
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Deeper trees cannot be measured: each level holds a descriptor.
pub const MAX_DEPTH: usize = 800;
/// Names of one file beyond this many such files are counted once each.
const MAX_LINKED: usize = 1 << 20;
/// How often the clock is looked at, in entries.
const CLOCK_EVERY: u64 = 1024;
/// How many processes and descriptors are looked through for files that have no name any more.
const MAX_PROCESSES: usize = 4096;
const MAX_DESCRIPTORS: usize = 65_536;

/// Bytes on disk, and files and directories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Usage {
    /// More than `limit` in either; 0 in the limit means that there is none.
    pub fn exceeds(&self, limit: &Self) -> bool {
        (limit.bytes != 0 && self.bytes > limit.bytes) || (limit.inodes != 0 && self.inodes > limit.inodes)
    }

    pub(crate) fn grown_from(&self, before: &Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(before.bytes),
            inodes: self.inodes.saturating_sub(before.inodes),
        }
    }

    pub(crate) fn plus(&self, more: &Self) -> Self {
        Self { bytes: self.bytes.saturating_add(more.bytes), inodes: self.inodes.saturating_add(more.inodes) }
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Coverage {
    Whole,
    /// The bound on entries or time was reached: it uses at least this.
    Partial,
    /// Directories are nested more deeply than [`MAX_DEPTH`].
    TooDeep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub usage: Usage,
    /// The part of it that has not changed since the time that was asked about.
    pub older: Usage,
    pub coverage: Coverage,
}

/// Walks the tree below `root`, which is not itself counted. What changed last before `since` is told apart: no tenant can set
/// that time of a file's.
pub fn measure(
    root: OwnedFd,
    since: SystemTime,
    max_entries: u64,
    max_time: Duration,
) -> rustix::io::Result<Measured> {
    let mut walk = Walk {
        usage: Usage::default(),
        older: Usage::default(),
        since: since.duration_since(UNIX_EPOCH).unwrap_or_default(),
        linked: HashSet::new(),
        stack: vec![Dir::new(root)?],
        coverage: Coverage::Whole,
        max_entries,
        deadline: Instant::now() + max_time,
    };
    while walk.step() {}
    Ok(Measured { usage: walk.usage, older: walk.older, coverage: walk.coverage })
}

struct Walk {
    usage: Usage,
    older: Usage,
    since: Duration,
    /// Files with several names that have been counted.
    linked: HashSet<u64>,
    stack: Vec<Dir>,
    coverage: Coverage,
    max_entries: u64,
    deadline: Instant,
}

impl Walk {
    /// Takes the next entry of the innermost directory. False at the end.
    fn step(&mut self) -> bool {
        let Some(dir) = self.stack.last_mut() else { return false };
        let entry = match dir.read() {
            Some(Ok(entry)) => entry,
            // What vanished, or cannot be read, has nothing more to tell.
            Some(Err(_)) | None => {
                self.stack.pop();
                return !self.stack.is_empty();
            }
        };
        let name = entry.file_name();
        if name.to_bytes() == b"." || name.to_bytes() == b".." {
            return true;
        }
        let name: CString = name.to_owned();
        let Ok(fd) = dir.fd() else { return true };
        let Ok(stat) = statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) else { return true };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        let many_names = !is_dir && stat.st_nlink > 1;
        if many_names && self.linked.len() < MAX_LINKED && !self.linked.insert(stat.st_ino) {
            return true;
        }
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let one = Usage { bytes, inodes: 1 };
        self.usage = self.usage.plus(&one);
        if changed(&stat) < self.since {
            self.older = self.older.plus(&one);
        }
        if self.usage.inodes >= self.max_entries
            || (self.usage.inodes.is_multiple_of(CLOCK_EVERY) && Instant::now() >= self.deadline)
        {
            self.coverage = Coverage::Partial;
            return false;
        }
        if is_dir { self.enter(&name) } else { true }
    }

    fn enter(&mut self, name: &CString) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            self.coverage = Coverage::TooDeep;
            return false;
        }
        let Some(Ok(fd)) = self.stack.last().map(|dir| dir.fd()) else { return true };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(fd, name, flags, Mode::empty()).and_then(Dir::new) {
            Ok(inner) => {
                self.stack.push(inner);
                true
            }
            Err(Errno::MFILE | Errno::NFILE) => {
                self.coverage = Coverage::TooDeep;
                false
            }
            Err(_) => true,
        }
    }
}

/// When the kernel noted the last change of a file or of what is known about it.
fn changed(stat: &rustix::fs::Stat) -> Duration {
    let seconds = u64::try_from(stat.st_ctime).unwrap_or(0);
    Duration::new(seconds, u32::try_from(stat.st_ctime_nsec).unwrap_or(0))
}

/// Files of these processes that are open but have no name any more: no walk finds them.
///
/// Best effort: a process that ends meanwhile, or does not let itself be looked at, has none.
pub fn unlinked(processes: &[i32], volume: BorrowedFd<'_>) -> Usage {
    const OVERLAY: rustix::fs::FsWord = 0x794c_7630;
    let Ok(own) = rustix::fs::fstatfs(volume) else { return Usage::default() };
    let mut seen = HashSet::new();
    let mut usage = Usage::default();
    let mut looked_at = 0;
    for pid in processes.iter().take(MAX_PROCESSES) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for path in descriptors.flatten().map(|entry| entry.path()) {
            looked_at += 1;
            if looked_at > MAX_DESCRIPTORS {
                return usage;
            }
            let Ok(stat) = rustix::fs::stat(&path) else { continue };
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if !is_file || stat.st_nlink != 0 || stat.st_blocks == 0 {
                continue;
            }
            // Anonymous memory has no name either; it is memory.
            let on_disk =
                rustix::fs::statfs(&path).is_ok_and(|fs| fs.f_type == own.f_type || fs.f_type == OVERLAY);
            if on_disk && seen.insert((stat.st_dev, stat.st_ino)) {
                usage.inodes += 1;
                usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            }
        }
    }
    usage
}

/// What the file system of a directory has left for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub free: Usage,
    /// Below this, what grows is stopped.
    pub reserve: Usage,
}

/// A twentieth of the file system, but not more than this, is kept free.
const MAX_RESERVE: u64 = 2 << 30;

impl Room {
    pub fn of_path(dir: &Path) -> rustix::io::Result<Self> {
        rustix::fs::statvfs(dir).map(|fs| Self::of(&fs))
    }

    pub(crate) fn of_fd(dir: impl AsFd) -> rustix::io::Result<Self> {
        rustix::fs::fstatvfs(dir).map(|fs| Self::of(&fs))
    }

    fn of(fs: &rustix::fs::StatVfs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
        // A file system without a fixed number of inodes says 0.
        let inodes = if fs.f_files == 0 { u64::MAX } else { fs.f_favail };
        Self {
            free: Usage { bytes: bytes(fs.f_bavail), inodes },
            reserve: Usage { bytes: (bytes(fs.f_blocks) / 20).min(MAX_RESERVE), inodes: fs.f_files / 100 },
        }
    }

    /// Says in words what is nearly used up, if something is.
    pub fn shortage(&self) -> Option<String> {
        let (free, reserve) = (self.free, self.reserve);
        if free.bytes < reserve.bytes {
            let (left, kept) = (mib(free.bytes), mib(reserve.bytes));
            return Some(format!(
                "the node's file system is nearly full: {left} MiB are left, of which {kept} MiB are kept free"
            ));
        }
        (free.inodes < reserve.inodes).then(|| {
            let (left, kept) = (free.inodes, reserve.inodes);
            format!(
                "the node's file system is nearly out of inodes: {left} are left, of which {kept} are kept free"
            )
        })
    }
}

pub(crate) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    fn measure_all(path: &Path, entries: u64) -> Measured {
        measure(open(path), SystemTime::now(), entries, Duration::from_secs(20)).unwrap()
    }

    #[test]
    fn what_has_not_changed_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kept", "changed"] {
            fs::write(dir.path().join(name), vec![1; 1 << 20]).unwrap();
        }
        let hour = Duration::from_secs(3600);
        let older_than = |since| {
            let measured = measure(open(dir.path()), since, u64::MAX, Duration::from_secs(20)).unwrap();
            assert_eq!(measured.usage.inodes, 2);
            measured.older
        };
        let kept = fs::metadata(dir.path().join("kept")).unwrap();
        let kept = UNIX_EPOCH + changed_of(&kept);
        // A tenant may say that a file is old.
        let file = fs::File::options().append(true).open(dir.path().join("changed")).unwrap();
        while UNIX_EPOCH + changed_of(&file.metadata().unwrap()) <= kept {
            file.set_modified(UNIX_EPOCH).unwrap();
        }
        let older = older_than(kept + Duration::from_nanos(1));
        assert!(older.inodes == 1 && (1 << 20..2 << 20).contains(&older.bytes), "{older:?}");
        assert_eq!(older_than(SystemTime::now() - hour), Usage::default());
        assert_eq!(older_than(SystemTime::now() + hour).inodes, 2);
    }

    fn changed_of(metadata: &fs::Metadata) -> Duration {
        use std::os::unix::fs::MetadataExt as _;
        Duration::new(metadata.ctime().unsigned_abs(), u32::try_from(metadata.ctime_nsec()).unwrap())
    }

    #[test]
    fn blocks_are_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("big"), vec![1; 4 << 20]).unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(dir.path().join("a/file"), dir.path().join("again")).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let measured = measure_all(dir.path(), u64::MAX);
        assert_eq!((measured.coverage, measured.usage.inodes), (Coverage::Whole, 3));
        let bytes = measured.usage.bytes;
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        assert!(measure_all(dir.path(), u64::MAX).usage.bytes < 2 << 20);
    }

    #[test]
    fn a_walk_has_bounds() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..20 {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        let measured = measure_all(dir.path(), 10);
        assert_eq!((measured.coverage, measured.usage.inodes), (Coverage::Partial, 10));
        let mut at = open(dir.path());
        for _ in 0..=MAX_DEPTH {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
            at = openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(measure_all(dir.path(), u64::MAX).coverage, Coverage::TooDeep);
    }

    #[test]
    fn a_file_without_a_name_is_found_by_its_descriptor() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("gone");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let held = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let found = unlinked(&[own], open(dir.path()).as_fd());
        assert!(found.bytes >= 1 << 20 && found.inodes >= 1, "{found:?}");
        drop(held);
    }

    #[test]
    fn a_shortage_is_told_in_words() {
        let room = |bytes, inodes| Room {
            free: Usage { bytes, inodes },
            reserve: Usage { bytes: 10 << 20, inodes: 100 },
        };
        assert_eq!(room(10 << 20, 100).shortage(), None);
        assert!(room(1 << 20, 100).shortage().unwrap().contains("1 MiB are left"));
        assert!(room(10 << 20, 99).shortage().unwrap().contains("99 are left"));
        assert!(Room::of_path(Path::new("/")).unwrap().free.bytes > 0);
    }

    #[test]
    fn no_limit_is_never_exceeded() {
        let usage = Usage { bytes: 5, inodes: 5 };
        assert!(!usage.exceeds(&Usage::default()));
        assert!(
            usage.exceeds(&Usage { bytes: 4, inodes: 0 }) && usage.exceeds(&Usage { bytes: 0, inodes: 4 })
        );
    }
}
