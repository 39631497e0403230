//! Shows published layers to another range: the same tree again, its owners shifted from home's range to that one.
//!
//! Either one layer as it is, whiteouts and all, to be stacked; or all layers of an image merged into one tree, as an
//! overlay would merge them. The latter is for redirects: an overlay without its own `metacopy` option follows them from its
//! lowest layer only.
//!
//! Directories are the unit of work. Whoever takes one makes everything in it, its subdirectories still empty, and then
//! sets its own times: nothing that happens below changes them any more. So the tree needs no second pass, and its depth
//! costs a path in a list, not a descriptor.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::content::{self, Buffers, Origin};
use super::merge::{Part, is_whiteout, merged};
use super::open;
use super::path::join;
use super::protocol::{Fault, Report, show};
use super::shift::{Owner, times};
use crate::config::ViewMethod;

/// How many directories may be open at a time.
const DESCRIPTORS: usize = 800;

struct Walk {
    /// Roots of the layers, bottom first.
    sources: Vec<OwnedFd>,
    target: OwnedFd,
    origins: Vec<Origin>,
    method: ViewMethod,
    /// Nothing comes below: what hides has done so.
    whole: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Files with several names, by layer and inode: where the first was made.
    links: Mutex<HashMap<(usize, u64), Vec<u8>>>,
}

#[derive(Default)]
struct Queue {
    /// Last in, first out: what waits is one path's siblings, not a whole level of the tree.
    waiting: Vec<Pending>,
    busy: usize,
    fault: Option<Fault>,
    entries: u64,
    redirects: u64,
}

struct Pending {
    path: Vec<u8>,
    /// Where it is, top first; there is at least one.
    parts: Vec<Part>,
}

/// A directory of one layer, at work.
struct Place<'a> {
    source: BorrowedFd<'a>,
    target: BorrowedFd<'a>,
    part: Part,
}

/// What one writer has of its own.
#[derive(Default)]
struct Writer {
    buffers: Buffers,
    entries: u64,
    redirects: u64,
}

/// One directory less at work when dropped, also by a panic: nobody may wait for it for ever.
struct Turn<'a>(&'a Walk);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.busy -= 1;
        if std::thread::panicking() {
            queue.fault.get_or_insert(Fault::Confine { reason: "a writer panicked".into() });
        }
        self.0.changed.notify_all();
    }
}

/// `sources` are the roots of the published directories `layers`, bottom first, and `target` that of the view, which is empty.
pub(crate) fn layers(
    sources: Vec<OwnedFd>,
    target: OwnedFd,
    layers: &[PathBuf],
    method: ViewMethod,
    whole: bool,
) -> Result<Report, Fault> {
    let mut parts = Vec::new();
    for (layer, source) in sources.iter().enumerate().rev() {
        let stat = fs::fstat(source).map_err(|e| Fault::io("reading", b".", e))?;
        parts.push(Part { layer, searchable: stat.st_mode & 0o001 != 0 });
    }
    let hex = |layer: &PathBuf| layer.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    let root = Pending { path: Vec::new(), parts };
    // Each may have a directory of every layer open.
    let most = (DESCRIPTORS / sources.len().max(1)).clamp(1, 4);
    let writers = std::thread::available_parallelism().map_or(2, usize::from).min(most);
    let walk = Walk {
        origins: layers.iter().map(|layer| Origin { method, hex: hex(layer) }).collect(),
        sources,
        target,
        method,
        whole,
        queue: Mutex::new(Queue { waiting: vec![root], ..Queue::default() }),
        changed: Condvar::new(),
        links: Mutex::default(),
    };
    std::thread::scope(|scope| -> Result<(), Fault> {
        for _ in 1..writers {
            let thread = std::thread::Builder::new().name("writer".into());
            thread
                .spawn_scoped(scope, || walk.work())
                .map_err(|e| Fault::Confine { reason: format!("starting a writer: {e}") })?;
        }
        walk.work();
        Ok(())
    })?;
    let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    match queue.fault {
        Some(fault) => Err(fault),
        None => Ok(Report { entries: queue.entries, redirects: queue.redirects, ..Report::default() }),
    }
}

impl Walk {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut writer = Writer::default();
        while let Some(pending) = self.next() {
            let _turn = Turn(self);
            if let Err(fault) = self.directory(&pending, &mut writer) {
                self.queue().fault.get_or_insert(fault);
            }
        }
        let mut queue = self.queue();
        queue.entries += writer.entries;
        queue.redirects += writer.redirects;
    }

    /// A directory to work on; none when all is done, or one has failed.
    fn next(&self) -> Option<Pending> {
        let mut queue = self.queue();
        loop {
            if queue.fault.is_some() {
                return None;
            }
            if let Some(pending) = queue.waiting.pop() {
                queue.busy += 1;
                return Some(pending);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn submit(&self, pending: Pending) {
        self.queue().waiting.push(pending);
        self.changed.notify_one();
    }

    fn directory(&self, pending: &Pending, writer: &mut Writer) -> Result<(), Fault> {
        let path = pending.path.as_slice();
        let target = open_dir(&self.target, path)?;
        let sources = pending.parts.iter().map(|part| open_dir(&self.sources[part.layer], path));
        let sources = sources.collect::<Result<Vec<_>, _>>()?;
        let Some(top) = sources.first() else { return Ok(()) };
        let mut seen = HashSet::new();
        for (index, (source, part)) in sources.iter().zip(&pending.parts).enumerate() {
            let place = Place { source: source.as_fd(), target: target.as_fd(), part: *part };
            for entry in Dir::read_from(source).map_err(|e| Fault::io("listing", path, e))? {
                let entry = entry.map_err(|e| Fault::io("listing", path, e))?;
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." || (sources.len() > 1 && !seen.insert(name.to_vec())) {
                    continue;
                }
                let full = join(path, name);
                let stat = fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| Fault::io("reading", &full, e))?;
                writer.entries += 1;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let below = sources[index..].iter().zip(&pending.parts[index..]);
                    let parts = merged(below, name, &full)?;
                    // Nothing is inherited from a set-group-id directory yet: modes come last.
                    fs::mkdirat(&target, name, Mode::RWXU)
                        .map_err(|e| Fault::io("making the directory", &full, e))?;
                    self.submit(Pending { path: full, parts });
                } else if !(self.whole && is_whiteout(&stat)) {
                    self.entry(&place, name, full, &stat, writer)?;
                }
            }
        }
        let stat = fs::fstat(top).map_err(|e| Fault::io("reading", path, e))?;
        Owner::of(&stat, path)?.set(target.as_fd(), path)?;
        fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(|e| Fault::io("setting the mode of", path, e))?;
        content::attributes(top.as_fd(), target.as_fd(), !self.whole, &mut writer.buffers, path)?;
        fs::futimens(&target, &times(&stat)).map_err(|e| Fault::io("setting the times of", path, e))
    }

    /// Whatever is not a directory.
    fn entry(
        &self,
        place: &Place<'_>,
        name: &[u8],
        path: Vec<u8>,
        stat: &Stat,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        if stat.st_nlink < 2 {
            return self.leaf(place, name, &path, stat, writer);
        }
        // Held while the first name is made: another writer may be about to link to it.
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match links.get(&(place.part.layer, stat.st_ino)) {
            Some(first) => self.link(first, place, name, &path),
            None => {
                self.leaf(place, name, &path, stat, writer)?;
                links.insert((place.part.layer, stat.st_ino), path);
                Ok(())
            }
        }
    }

    fn link(&self, first: &[u8], place: &Place<'_>, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        let split = first.iter().rposition(|b| *b == b'/');
        let (parent, first) = split.map_or((&b""[..], first), |at| (&first[..at], &first[at + 1..]));
        let parent = open_dir(&self.target, parent)?;
        fs::linkat(&parent, first, place.target, name, AtFlags::empty())
            .map_err(|e| Fault::io("linking", path, e))
    }

    fn leaf(
        &self,
        place: &Place<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        let failed = |e| Fault::io("creating", path, e);
        let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => return self.file(place, name, path, stat, writer),
            FileType::Symlink => {
                let link = fs::readlinkat(place.source, name, Vec::new())
                    .map_err(|e| Fault::io("reading the link", path, e))?;
                fs::symlinkat(link.as_c_str(), place.target, name).map_err(failed)?;
            }
            // A whiteout is a device with the number 0; no other can be made here, nor is there one.
            FileType::Fifo | FileType::CharacterDevice => {
                fs::mknodat(place.target, name, kind, mode, stat.st_rdev).map_err(failed)?;
            }
            _ => return Err(Fault::entry(path, "it is of a kind that no layer holds")),
        }
        let owner = Owner::of(stat, path)?;
        if !owner.is_root() {
            let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
            fs::chownat(place.target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| Fault::io("setting the owner of", path, e))?;
        }
        fs::utimensat(place.target, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Fault::io("setting the times of", path, e))
    }

    /// The order matters: content and a new owner clear set-id bits and capabilities, and all of it changes the times.
    fn file(
        &self,
        place: &Place<'_>,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
        writer: &mut Writer,
    ) -> Result<(), Fault> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NOATIME | OFlags::CLOEXEC;
        let input = fs::openat(place.source, name, flags, Mode::empty())
            .map_err(|e| Fault::io("opening", path, e))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let output = fs::openat(place.target, name, flags, Mode::from_raw_mode(stat.st_mode & 0o777))
            .map_err(|e| Fault::io("creating", path, e))?;
        let Place { part: Part { layer, searchable }, .. } = *place;
        match self.origins[layer].redirect(path, stat, searchable) {
            Some(to) => {
                writer.redirects += 1;
                content::redirect(output.as_fd(), &to, stat, path)?;
            }
            None => {
                let buffers = &mut writer.buffers;
                content::data(self.method, input.as_fd(), output.as_fd(), stat, buffers, path)?;
            }
        }
        let owner = Owner::of(stat, path)?;
        if !owner.is_root() {
            owner.set(output.as_fd(), path)?;
        }
        if stat.st_mode & 0o7000 != 0 {
            fs::fchmod(&output, Mode::from_raw_mode(stat.st_mode & 0o7777))
                .map_err(|e| Fault::io("setting the mode of", path, e))?;
        }
        content::attributes(input.as_fd(), output.as_fd(), false, &mut writer.buffers, path)?;
        fs::futimens(&output, &times(stat)).map_err(|e| Fault::io("setting the times of", path, e))
    }
}

fn open_dir(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Fault> {
    let name = if path.is_empty() { &b"."[..] } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
    open::file(root, name, flags, Mode::empty()).map_err(|e| match e {
        Errno::NAMETOOLONG => Fault::entry(path, format!("{} bytes are too long a path", path.len())),
        e => Fault::io("opening the directory", show(path).as_bytes(), e),
    })
}
