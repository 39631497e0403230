//! Creates one thing that is not a directory, by the descriptor of its directory and a single name.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::meta::Meta;
use super::protocol::Fault;

#[derive(Debug)]
pub(crate) enum Leaf {
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
    Whiteout,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub dir: Arc<OwnedFd>,
    /// The directory passes its group on (it has the set-group-id bit).
    pub inherits: bool,
    pub name: Vec<u8>,
    /// From the layer's root, for messages.
    pub path: Vec<u8>,
    pub leaf: Leaf,
    pub meta: Meta,
}

pub(crate) fn create(job: &Job) -> Result<(), Fault> {
    match &job.leaf {
        Leaf::File(data) => {
            let Some(file) = open_new(job)? else { return Ok(()) };
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                match rustix::io::write(&file, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(Fault::io("writing", &job.path, error)),
                }
            }
            finish_file(job, &file)
        }
        Leaf::Symlink(target) => {
            let made = exclusively(job, || fs::symlinkat(target.as_slice(), &job.dir, job.name.as_slice()))?;
            if made.is_some() { finish_by_name(job) } else { Ok(()) }
        }
        Leaf::Fifo => {
            let mode = Mode::from_raw_mode(job.meta.mode & 0o777);
            let made =
                exclusively(job, || fs::mknodat(&job.dir, job.name.as_slice(), FileType::Fifo, mode, 0))?;
            if made.is_some() { finish_by_name(job) } else { Ok(()) }
        }
        // A file of the same layer already hides what is below.
        Leaf::Whiteout => {
            match fs::mknodat(&job.dir, job.name.as_slice(), FileType::CharacterDevice, Mode::empty(), 0) {
                Ok(()) | Err(Errno::EXIST) => Ok(()),
                Err(error) => Err(Fault::io("making a whiteout at", &job.path, error)),
            }
        }
    }
}

/// The new file, or none if a later entry of the layer has made a directory of that name.
pub(crate) fn open_new(job: &Job) -> Result<Option<OwnedFd>, Fault> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(job.meta.mode & 0o777);
    exclusively(job, || fs::openat(&job.dir, job.name.as_slice(), flags, mode))
}

pub(crate) fn finish_file(job: &Job, file: &OwnedFd) -> Result<(), Fault> {
    job.meta.apply(file.as_fd(), &job.path, job.inherits)?;
    fs::futimens(file, &job.meta.times()).map_err(|e| Fault::io("setting the times of", &job.path, e))
}

fn finish_by_name(job: &Job) -> Result<(), Fault> {
    let name = job.name.as_slice();
    if job.inherits || !job.meta.owned_by_root() {
        let (uid, gid) = job.meta.owner();
        fs::chownat(&job.dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| Fault::io("setting the owner of", &job.path, e))?;
    }
    fs::utimensat(&job.dir, name, &job.meta.times(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Fault::io("setting the times of", &job.path, e))
}

/// Runs a call that fails if the name is taken; an earlier entry of that name, unless it is a directory,
/// gives way.
fn exclusively<T>(job: &Job, call: impl Fn() -> Result<T, Errno>) -> Result<Option<T>, Fault> {
    match call() {
        Err(Errno::EXIST) => {}
        other => return other.map(Some).map_err(|e| Fault::io("creating", &job.path, e)),
    }
    let stat = fs::statat(&job.dir, job.name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Fault::io("reading", &job.path, e))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(None);
    }
    fs::unlinkat(&job.dir, job.name.as_slice(), AtFlags::empty())
        .map_err(|e| Fault::io("replacing", &job.path, e))?;
    call().map(Some).map_err(|e| Fault::io("creating", &job.path, e))
}
