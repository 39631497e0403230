//! The directories of the layer that is being made, by descriptor.
//!
//! Every step goes from one directory descriptor to a single name in it, never following a link by accident.
//! Where an entry's parent is a symbolic link of the same layer (`lib -> usr/lib`, then `lib/x`), the link is
//! read and followed by hand *within the layer's root*, as other runtimes do; links of lower layers cannot be
//! seen here, so there a real directory is made.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::meta::Meta;
use super::path::join;
use super::pool::Pool;
use super::protocol::{Fault, show};
use super::remove;

const OPEN_DIRS: usize = 192;
const MAX_LINKS: usize = 40;

pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    dirs: HashMap<Vec<u8>, Dir>,
    /// Directories with an open descriptor, oldest first.
    open: VecDeque<Vec<u8>>,
    /// Lengths of all paths in `dirs`, and how much that may be.
    bytes: u64,
    limit: u64,
}

#[derive(Default)]
struct Dir {
    fd: Option<Arc<OwnedFd>>,
    inherits: bool,
    /// Of an explicit entry: the time to set when everything is in place.
    meta: Option<Meta>,
}

/// A directory that an entry goes into, under its real path.
#[derive(Clone)]
pub(crate) struct Place {
    pub path: Vec<u8>,
    pub fd: Arc<OwnedFd>,
    pub inherits: bool,
}

const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Tree {
    pub(crate) fn new(root: OwnedFd, limit: u64) -> Self {
        let root = Arc::new(root);
        let dir = Dir { fd: Some(Arc::clone(&root)), ..Dir::default() };
        let dirs = HashMap::from([(Vec::new(), dir)]);
        Self { root, dirs, open: VecDeque::new(), bytes: 0, limit }
    }

    pub(crate) fn is_dir(&self, path: &[u8]) -> bool {
        self.dirs.contains_key(path)
    }

    /// Finds the directory `path`, making what is missing if `create` is given; that is called once for each.
    pub(crate) fn place(
        &mut self,
        path: &[u8],
        entry: &[u8],
        pool: &Pool,
        mut create: Option<&mut dyn FnMut() -> Result<(), Fault>>,
    ) -> Result<Place, Fault> {
        if self.dirs.contains_key(path) {
            return self.known(path);
        }
        let mut real: Vec<u8> = Vec::new();
        let mut todo: VecDeque<Vec<u8>> = path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                real.truncate(real.iter().rposition(|b| *b == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&real, &part);
            if self.dirs.contains_key(&next) {
                real = next;
                continue;
            }
            // What is there may still be on its way to a writer.
            pool.barrier()?;
            let parent = self.known(&real)?;
            match fs::statat(&parent.fd, part.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Fault::entry(
                            entry,
                            "its parent directories are a loop of symbolic links",
                        ));
                    }
                    let target = fs::readlinkat(&parent.fd, part.as_slice(), Vec::new())
                        .map_err(|e| Fault::io("reading the link", &next, e))?;
                    if target.as_bytes().starts_with(b"/") {
                        real.clear();
                    }
                    for part in target.as_bytes().split(|b| *b == b'/').rev() {
                        if !part.is_empty() && part != b"." {
                            todo.push_front(part.to_vec());
                        }
                    }
                }
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice => {
                    self.replace_whiteout(&parent, &part, &next)?;
                    real = next;
                }
                Ok(_) => return Err(Fault::entry(entry, "one of its parents is not a directory")),
                Err(Errno::NOENT) => {
                    let Some(create) = create.as_mut() else {
                        return Err(Fault::entry(entry, "it names a directory that is not in this layer"));
                    };
                    create()?;
                    self.make(&parent, &part, &next, &Meta::default_dir())?;
                    real = next;
                }
                Err(error) => return Err(Fault::io("reading", &next, error)),
            }
        }
        self.known(&real)
    }

    /// Applies a directory entry, which may change a directory that is there.
    pub(crate) fn directory(
        &mut self,
        parent: &Place,
        name: &[u8],
        meta: Meta,
        pool: &Pool,
    ) -> Result<(), Fault> {
        let path = join(&parent.path, name);
        if self.dirs.contains_key(&path) {
            return self.set(&path, meta);
        }
        match self.make(parent, name, &path, &meta) {
            Err(Fault::Entry { .. }) => {
                // Not a directory that we made: an earlier entry, which gives way.
                pool.barrier()?;
                let stat = fs::statat(&parent.fd, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|e| Fault::io("reading", &path, e))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice {
                    self.replace_whiteout(parent, name, &path)?;
                } else {
                    fs::unlinkat(&parent.fd, name, AtFlags::empty())
                        .map_err(|e| Fault::io("replacing", &path, e))?;
                    self.make(parent, name, &path, &meta)?;
                }
            }
            other => other?,
        }
        self.set_meta(&path, meta)
    }

    /// Applies an entry for a directory that is there; the root among them.
    pub(crate) fn set(&mut self, path: &[u8], meta: Meta) -> Result<(), Fault> {
        let place = self.known(path)?;
        let setgid = meta.mode & 0o2000 != 0;
        // The mode is set even if it needs no set-id bits: an earlier entry may have given another.
        meta.apply(place.fd.as_fd(), path, true)?;
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.inherits = setgid;
        }
        self.set_meta(path, meta)
    }

    pub(crate) fn set_opaque(&mut self, path: &[u8]) -> Result<(), Fault> {
        let place = self.known(path)?;
        fs::fsetxattr(&place.fd, "user.overlay.opaque", b"y", fs::XattrFlags::empty())
            .map_err(|e| Fault::io("making opaque", path, e))
    }

    /// Removes a directory of this layer with all below it, for an entry that replaces it.
    pub(crate) fn remove(&mut self, parent: &Place, name: &[u8], pool: &Pool) -> Result<(), Fault> {
        pool.barrier()?;
        let path = join(&parent.path, name);
        let place = self.known(&path)?;
        remove::empty(place.fd.as_fd())?;
        fs::unlinkat(&parent.fd, name, AtFlags::REMOVEDIR).map_err(|e| Fault::io("replacing", &path, e))?;
        let below = join(&path, b"");
        self.dirs.retain(|known, _| {
            let kept = *known != path && !known.starts_with(&below);
            if !kept {
                self.bytes -= known.len() as u64;
            }
            kept
        });
        self.open.retain(|known| *known != path && !known.starts_with(&below));
        Ok(())
    }

    /// Sets the times of directories, which every entry in them has changed.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        for (path, dir) in &self.dirs {
            let meta = dir.meta.clone().unwrap_or_else(Meta::default_dir);
            let result = match &dir.fd {
                Some(fd) => fs::futimens(fd, &meta.times()),
                None => fs::utimensat(&self.root, path.as_slice(), &meta.times(), AtFlags::SYMLINK_NOFOLLOW),
            };
            result.map_err(|e| Fault::io("setting the times of", path, e))?;
        }
        Ok(())
    }

    fn set_meta(&mut self, path: &[u8], meta: Meta) -> Result<(), Fault> {
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.meta = Some(meta);
        }
        Ok(())
    }

    /// `Fault::Entry` if the name is taken.
    fn make(&mut self, parent: &Place, name: &[u8], path: &[u8], meta: &Meta) -> Result<(), Fault> {
        match fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(meta.mode & 0o1777)) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(Fault::entry(path, "it exists")),
            Err(error) => return Err(Fault::io("making the directory", path, error)),
        }
        self.bytes = self.bytes.saturating_add(path.len() as u64);
        if self.bytes > self.limit {
            let what = "length of the paths of all directories".to_owned();
            return Err(Fault::Limit { what, limit: self.limit, entry: show(path) });
        }
        let dir = Dir { inherits: meta.mode & 0o2000 != 0, ..Dir::default() };
        self.dirs.insert(path.to_vec(), dir);
        if parent.inherits || !meta.owned_by_root() || meta.mode & 0o6000 != 0 || !meta.xattrs.is_empty() {
            let place = self.known(path)?;
            meta.apply(place.fd.as_fd(), path, parent.inherits)?;
        }
        Ok(())
    }

    /// A directory over a whiteout of the same layer: nothing below it may show through.
    fn replace_whiteout(&mut self, parent: &Place, name: &[u8], path: &[u8]) -> Result<(), Fault> {
        fs::unlinkat(&parent.fd, name, AtFlags::empty()).map_err(|e| Fault::io("replacing", path, e))?;
        self.make(parent, name, path, &Meta::default_dir())?;
        self.set_opaque(path)
    }

    fn known(&mut self, path: &[u8]) -> Result<Place, Fault> {
        let dir = self.dirs.get_mut(path).ok_or_else(|| Fault::entry(path, "its directory is not known"))?;
        let fd = match &dir.fd {
            Some(fd) => Arc::clone(fd),
            None => {
                let resolve = ResolveFlags::BENEATH
                    .union(ResolveFlags::NO_SYMLINKS)
                    .union(ResolveFlags::NO_MAGICLINKS)
                    .union(ResolveFlags::NO_XDEV);
                let fd = fs::openat2(&self.root, path, DIR_FLAGS, Mode::empty(), resolve)
                    .map_err(|e| Fault::io("opening the directory", path, e))?;
                let fd = Arc::new(fd);
                dir.fd = Some(Arc::clone(&fd));
                self.open.push_back(path.to_vec());
                fd
            }
        };
        let place = Place { path: path.to_vec(), fd, inherits: dir.inherits };
        if self.open.len() > OPEN_DIRS
            && let Some(oldest) = self.open.pop_front()
            && let Some(dir) = self.dirs.get_mut(&oldest)
        {
            dir.fd = None;
        }
        Ok(place)
    }
}
