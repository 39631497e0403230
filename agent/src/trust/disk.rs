//! Files of an image that nobody vouches for: found and changed by descriptor, within one root and one mount, read with a bound,
//! replaced in one step. Links are followed as far as they stay inside, because distributions keep their stores behind them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, mkdirat, open, openat, openat2,
    readlink, readlinkat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::files::own;

/// Ten times the largest bundle that a distribution ships.
pub const MAX_FILE: u64 = 16 << 20;
/// Of a directory.
const MAX_NAMES: usize = 20_000;

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("it is on a mount of its own, which is not the image's")]
    OtherMount,
    #[error("it leads through more links than are followed, or through one of the kernel's")]
    Links,
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is larger than 16 MiB")]
    TooLarge,
    #[error("its directory has more than {MAX_NAMES} entries")]
    TooManyNames,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<Errno> for DiskError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::XDEV => Self::OtherMount,
            Errno::LOOP => Self::Links,
            other => Self::Io(other.into()),
        }
    }
}

/// `None` for what is not there.
fn there<T>(result: Result<T, Errno>) -> Result<Option<T>, DiskError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(other) => Err(other.into()),
    }
}

pub struct Root {
    directory: OwnedFd,
    path: PathBuf,
}

/// A directory of the image, open, and where it really is.
pub struct Directory {
    handle: OwnedFd,
    pub path: PathBuf,
}

impl Root {
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let directory = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = real_path(&directory)?;
        Ok(Self { directory, path })
    }

    fn resolve(&self, path: &Path, flags: OFlags, extra: ResolveFlags) -> Result<OwnedFd, Errno> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), within | extra)
    }

    /// Where the file is that `path` leads to. It need not be a regular one.
    pub fn find(&self, path: &Path) -> Result<Option<(Directory, OsString)>, DiskError> {
        let Some(found) = there(self.resolve(path, OFlags::PATH, ResolveFlags::empty()))? else {
            return Ok(None);
        };
        let real = self.inside(&found)?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(DiskError::NotAFile);
        };
        let handle = self.resolve(parent, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
        Ok(Some((Directory { handle, path: parent.to_owned() }, name.to_owned())))
    }

    pub fn directory(&self, path: &Path) -> Result<Option<Directory>, DiskError> {
        let found = there(self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, ResolveFlags::empty()))?;
        found.map(|handle| Ok(Directory { path: self.inside(&handle)?, handle })).transpose()
    }

    /// Makes what is missing of it.
    pub fn make_directory(&self, path: &Path) -> Result<Directory, DiskError> {
        if let Some(found) = self.directory(path)? {
            return Ok(found);
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::NotFound).into());
        };
        mkdirat(&self.make_directory(parent)?.handle, name, Mode::from_raw_mode(0o755))?;
        self.directory(path)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound).into())
    }

    pub fn exists(&self, path: &str) -> bool {
        self.resolve(Path::new(path), OFlags::PATH, ResolveFlags::empty()).is_ok()
    }

    fn inside(&self, found: &OwnedFd) -> Result<PathBuf, DiskError> {
        let real = real_path(found)?;
        let inside = real.strip_prefix(&self.path).map_err(|_| DiskError::Links)?;
        Ok(Path::new("/").join(inside))
    }
}

fn real_path(handle: &OwnedFd) -> Result<PathBuf, DiskError> {
    let path = readlink(format!("/proc/self/fd/{}", handle.as_raw_fd()), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(path.into_bytes())))
}

impl Directory {
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    fn status(&self, name: &OsStr) -> Result<Option<Stat>, DiskError> {
        there(statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// A regular file of at most [`MAX_FILE`]; `None` if there is nothing of that name. What is no regular file is not opened,
    /// so that nothing is set off in a device or waited for in a pipe.
    pub fn read(&self, name: &OsStr) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(status) = self.status(name)? else { return Ok(None) };
        regular(&status)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.handle, name, flags, Mode::empty())?;
        let size = regular(&fstat(&file)?)?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        File::from(file).take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE { Err(DiskError::TooLarge) } else { Ok(Some(bytes)) }
    }

    /// Replaces it in one step, whatever it is but a directory. A regular file's owner and mode stay; else they are root and 0644.
    pub fn replace(&self, name: &OsStr, content: &[u8]) -> Result<(), DiskError> {
        let kept = self.status(name)?.filter(|status| regular(status).is_ok());
        let temporary = temporary(name);
        let _ = unlinkat(&self.handle, &temporary, AtFlags::empty());
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.handle, &temporary, flags, Mode::from_raw_mode(0o600))?);
        let replaced = fill(file, content, kept.as_ref()).map_err(DiskError::from).and_then(|()| {
            renameat(&self.handle, &temporary, &self.handle, name).map_err(|errno| match errno {
                Errno::BUSY => DiskError::OtherMount,
                other => other.into(),
            })
        });
        if replaced.is_err() {
            let _ = unlinkat(&self.handle, &temporary, AtFlags::empty());
        }
        replaced
    }

    pub fn link(&self, name: &str, target: &str) -> Result<(), DiskError> {
        Ok(symlinkat(target, &self.handle, name)?)
    }

    /// Removes it if it is there.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        there(unlinkat(&self.handle, name, AtFlags::empty())).map(drop)
    }

    /// What the link `name` says; `None` if it is not a link.
    pub fn target(&self, name: &str) -> Option<String> {
        readlinkat(&self.handle, name, Vec::new()).ok()?.into_string().ok()
    }

    /// The names in it that are text.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for (count, entry) in Dir::read_from(&self.handle)?.enumerate() {
            if count >= MAX_NAMES {
                return Err(DiskError::TooManyNames);
            }
            names.extend(entry?.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }
}

fn temporary(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".cordium-new.");
    temporary.push(name);
    temporary
}

fn fill(mut file: File, content: &[u8], kept: Option<&Stat>) -> io::Result<()> {
    file.write_all(content)?;
    let (uid, gid, mode) =
        kept.map_or((0, 0, 0o644), |kept| (kept.st_uid, kept.st_gid, kept.st_mode & 0o7777));
    own(&file, uid, gid)?;
    Ok(fchmod(&file, Mode::from_raw_mode(mode))?)
}

fn regular(status: &Stat) -> Result<u64, DiskError> {
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(DiskError::NotAFile);
    }
    let size = u64::try_from(status.st_size).unwrap_or(u64::MAX);
    if size > MAX_FILE { Err(DiskError::TooLarge) } else { Ok(size) }
}
