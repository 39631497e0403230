//! Applies the entries of one layer, in order, to a new directory.

use std::os::fd::OwnedFd;

use super::decompress::Decompressed;
use super::leaf::{self, Job, Leaf};
use super::meta::Meta;
use super::path::{self, Target, join};
use super::pool::Pool;
use super::protocol::{Fault, Report, show};
use super::tar::{Entry, Kind, TarReader};
use super::tree::{Place, Tree};
use crate::config::Limits;

use rustix::fs::{self, AtFlags, FileType};
use rustix::io::Errno;

/// Files up to this size are handed to a writer; larger ones are written while they are read.
const SMALL: u64 = 512 << 10;

struct Applier {
    tree: Tree,
    pool: Pool,
    limits: Limits,
    ids: u32,
    report: Report,
}

/// `root` is the empty directory of the layer's files.
pub(crate) fn layer(input: Decompressed, root: OwnedFd, limits: Limits, ids: u32) -> Result<Report, Fault> {
    let writers = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, 4);
    let mut tar = TarReader::new(input, limits.extension_bytes);
    let mut applier = Applier {
        tree: Tree::new(root, limits.directory_bytes),
        pool: Pool::new(writers)?,
        limits,
        ids,
        report: Report::default(),
    };
    applier.tree.set(b"", Meta::default_dir())?;
    let result = applier.run(&mut tar);
    let input = tar.into_inner();
    if let Err(fault) = result {
        return Err(input.fault().unwrap_or(fault));
    }
    let Applier { mut tree, pool, mut report, .. } = applier;
    pool.finish()?;
    tree.finish()?;
    report.diff_id = input.finish()?.to_string();
    Ok(report)
}

impl Applier {
    fn run(&mut self, tar: &mut TarReader<Decompressed>) -> Result<(), Fault> {
        while let Some(entry) = tar.next_entry()? {
            count(&mut self.report, &self.limits, &entry.path)?;
            self.check_density(tar, &entry.path)?;
            self.report.bytes = self.report.bytes.saturating_add(entry.length);
            if self.report.bytes > self.limits.layer_bytes {
                let limit = self.limits.layer_bytes;
                return Err(Fault::Limit {
                    what: "unpacked size in bytes".into(),
                    limit,
                    entry: show(&entry.path),
                });
            }
            self.entry(entry, tar)?;
        }
        Ok(())
    }

    /// What the stream has taken in runs ahead of the entries, in the layer's favour.
    fn check_density(&self, tar: &TarReader<Decompressed>, entry: &[u8]) -> Result<(), Fault> {
        let Limits { entry_bytes, entry_floor, .. } = self.limits;
        let entries = self.report.entries;
        // Not at each entry: the number comes from another thread.
        if entries <= entry_floor || !entries.is_multiple_of(1024) {
            return Ok(());
        }
        if tar.inner().taken_in() / entries < entry_bytes {
            let what = format!("number of entries with fewer than {entry_bytes} bytes each");
            return Err(Fault::Limit { what, limit: entry_floor, entry: show(entry) });
        }
        Ok(())
    }

    fn entry(&mut self, entry: Entry, tar: &mut TarReader<Decompressed>) -> Result<(), Fault> {
        match path::target(&entry.path, &self.limits)? {
            Target::Ignore => Ok(()),
            Target::Root => match entry.kind {
                Kind::Directory => self.tree.set(b"", Meta::of(&entry, self.ids)?),
                _ => Err(Fault::entry(&entry.path, "the layer's root can only be a directory")),
            },
            Target::Opaque { parent } => {
                let place = self.parent(&parent, &entry.path)?;
                self.report.hides_all_below |= place.path.is_empty();
                self.tree.set_opaque(&place.path)
            }
            Target::Whiteout { parent, name } => {
                let place = self.parent(&parent, &entry.path)?;
                let path = join(&place.path, &name);
                if self.tree.is_dir(&path) {
                    return self.tree.set_opaque(&path);
                }
                // Made at once, not by a writer, so that a directory of this name finds it.
                let (dir, meta) = (place.fd, Meta::default_dir());
                leaf::create(&Job { dir, inherits: false, name, path, leaf: Leaf::Whiteout, meta })
            }
            Target::Path { parent, name } => self.path(entry, &parent, name, tar),
        }
    }

    fn path(
        &mut self,
        entry: Entry,
        parent: &[u8],
        name: Vec<u8>,
        tar: &mut TarReader<Decompressed>,
    ) -> Result<(), Fault> {
        if entry.kind == Kind::Device {
            // A user namespace cannot make device nodes, and the sandbox has a /dev of its own.
            self.report.skipped_devices += 1;
            return Ok(());
        }
        let meta = Meta::of(&entry, self.ids)?;
        let place = self.parent(parent, &entry.path)?;
        if entry.kind == Kind::Directory {
            return self.tree.directory(&place, &name, meta, &self.pool);
        }
        let path = join(&place.path, &name);
        if entry.kind == Kind::Hardlink {
            return self.hardlink(&entry, &place, &name, &path);
        }
        if self.tree.is_dir(&path) {
            self.tree.remove(&place, &name, &self.pool)?;
        }
        let job = |leaf| Job { dir: place.fd, inherits: place.inherits, name, path, leaf, meta };
        match entry.kind {
            Kind::File if entry.size <= SMALL && entry.pieces.is_none() => {
                let mut data = vec![0; entry.size as usize];
                let mut filled = 0;
                while filled < data.len() {
                    filled += tar.read_data(&mut data[filled..])?;
                }
                self.pool.submit(job(Leaf::File(data)))
            }
            Kind::Symlink if entry.link.is_empty() || entry.link.len() >= self.limits.path_length => {
                Err(Fault::entry(&entry.path, "it is a symbolic link to nothing or to too long a path"))
            }
            Kind::Symlink if entry.link.contains(&0) => {
                Err(Fault::entry(&entry.path, "the target of the symbolic link contains a NUL byte"))
            }
            Kind::Symlink => self.pool.submit(job(Leaf::Symlink(entry.link))),
            Kind::Fifo => self.pool.submit(job(Leaf::Fifo)),
            _ => {
                let job = job(Leaf::File(Vec::new()));
                self.pool.barrier()?;
                large(&job, &entry, tar)
            }
        }
    }

    fn parent(&mut self, parent: &[u8], entry: &[u8]) -> Result<Place, Fault> {
        let (report, limits) = (&mut self.report, &self.limits);
        self.tree.place(parent, entry, &self.pool, Some(&mut || count(report, limits, entry)))
    }

    /// A further name for a file of this layer; for nothing else.
    fn hardlink(&mut self, entry: &Entry, place: &Place, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        let Target::Path { parent, name: source } =
            path::target(&entry.link, &self.limits).map_err(|_| {
                Fault::entry(
                    &entry.path,
                    format!("its hard link target {:?} is not in the layer", show(&entry.link)),
                )
            })?
        else {
            return Err(Fault::entry(&entry.path, "its hard link target is not a file"));
        };
        let from = self.tree.place(&parent, &entry.path, &self.pool, None)?;
        if join(&from.path, &source) == path {
            return Err(Fault::entry(&entry.path, "it is a hard link to itself"));
        }
        self.pool.barrier()?;
        let stat =
            fs::statat(&from.fd, source.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| match e {
                Errno::NOENT => Fault::entry(
                    &entry.path,
                    format!("its hard link target {:?} is not in the layer", show(&entry.link)),
                ),
                e => Fault::io("reading the hard link target of", &entry.path, e),
            })?;
        // A link to a symbolic link is one more name for the link itself: it is not followed.
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink) {
            return Err(Fault::entry(&entry.path, "its hard link target is not a file"));
        }
        if self.tree.is_dir(path) {
            self.tree.remove(place, name, &self.pool)?;
        }
        let link = || fs::linkat(&from.fd, source.as_slice(), &place.fd, name, AtFlags::empty());
        match link() {
            Err(Errno::EXIST) => {
                fs::unlinkat(&place.fd, name, AtFlags::empty())
                    .map_err(|e| Fault::io("replacing", path, e))?;
                link()
            }
            other => other,
        }
        .map_err(|e| Fault::io("linking", path, e))
    }
}

fn count(report: &mut Report, limits: &Limits, entry: &[u8]) -> Result<(), Fault> {
    report.entries += 1;
    if report.entries > limits.layer_entries {
        let limit = limits.layer_entries;
        return Err(Fault::Limit { what: "number of entries".into(), limit, entry: show(entry) });
    }
    Ok(())
}

/// Writes a large or sparse file while it is read.
fn large(job: &Job, entry: &Entry, tar: &mut TarReader<Decompressed>) -> Result<(), Fault> {
    let Some(file) = leaf::open_new(job)? else { return Ok(()) };
    let mut buffer = vec![0; 256 << 10];
    let whole = [(0, entry.size)];
    for (offset, length) in entry.pieces.as_deref().unwrap_or(&whole) {
        let (mut at, end) = (*offset, offset + length);
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let got = tar.read_data(&mut buffer[..want])?;
            if got == 0 {
                return Err(Fault::entry(&entry.path, "its content ends early"));
            }
            let mut rest = &buffer[..got];
            while !rest.is_empty() {
                let written =
                    rustix::io::pwrite(&file, rest, at).map_err(|e| Fault::io("writing", &job.path, e))?;
                rest = &rest[written..];
                at += written as u64;
            }
        }
    }
    if entry.pieces.is_some() {
        fs::ftruncate(&file, entry.length).map_err(|e| Fault::io("extending", &job.path, e))?;
    }
    leaf::finish_file(job, &file)
}
