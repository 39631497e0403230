//! The confined side: `EXE unpack`. Started with a socket as its standard input; see `protocol`.

use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{self, Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use super::idmap::RANGE;
use super::meta::ROOT_ID;
use super::protocol::{Fault, Job, MAX_JOB, Reply, Report};
use super::{apply, confine, decompress::Decompressed, give, probe, remove, view};

/// Entry of the `unpack` subcommand. Must be called while the process has a single thread.
pub fn unpack_main() -> ExitCode {
    let reply = match run() {
        Ok(report) => Reply::Done(report),
        Err(fault) => Reply::Failed(fault),
    };
    let failed = matches!(reply, Reply::Failed(_));
    match say(&reply) {
        Ok(()) if !failed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn run() -> Result<Report, Fault> {
    confine::unshare()?;
    say(&Reply::Unshared).map_err(|e| Fault::Confine { reason: format!("answering: {e}") })?;
    let (job, dir) = receive().map_err(|e| Fault::Confine { reason: format!("receiving the job: {e}") })?;
    let (sources, id) = match &job {
        // Before the process is confined, because it mounts. It reads nothing that others have written.
        Job::Probe { path } => return Ok(Report { can: probe::run(path), ..Report::default() }),
        Job::View { layers, .. } => (confine::detach(layers)?, ROOT_ID + RANGE),
        Job::Unpack { .. } | Job::Empty | Job::Give { .. } => (Vec::new(), ROOT_ID),
    };
    let mut warnings = confine::enter(dir.as_fd(), &sources, id)?;
    let mut report = match job {
        Job::Unpack { limits, ids } => {
            let root = make_root(&dir)?;
            let input = Decompressed::start(StandardInput, limits.clone())?;
            apply::layer(input, root, limits, ids)?
        }
        Job::Give { shift } => Report { entries: give::tree(dir.as_fd(), shift)?, ..Report::default() },
        Job::Empty => {
            remove::empty(dir.as_fd())?;
            Report::default()
        }
        Job::View { layers, method, whole } => {
            view::layers(sources, make_root(&dir)?, &layers, method, whole)?
        }
        Job::Probe { .. } => Report::default(),
    };
    report.warnings.append(&mut warnings);
    Ok(report)
}

fn make_root(dir: &OwnedFd) -> Result<OwnedFd, Fault> {
    fs::mkdirat(dir, "fs", Mode::RWXU).map_err(|e| Fault::io("making", b"fs", e))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(dir, "fs", flags, Mode::empty()).map_err(|e| Fault::io("opening", b"fs", e))
}

fn say(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// The job and the directory that came with its first byte.
fn receive() -> io::Result<(Job, OwnedFd)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 4];
    let received = rustix::net::recvmsg(
        rustix::stdio::stdin(),
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let dir = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("no directory came with it"))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_JOB {
        return Err(io::Error::other("it is too long"));
    }
    let mut text = vec![0; length];
    StandardInput.read_exact(&mut text)?;
    Ok((serde_json::from_slice(&text)?, dir))
}

/// Without the buffer of [`io::stdin`], which would be one copy more.
struct StandardInput;

impl Read for StandardInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buffer)?)
    }
}
