//! This side of the confined process: starts it, maps its ids, gives it a job, and hears its answer.

use std::fs::File;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::idmap::{Extent, Extents};
use super::protocol::{Job, MAX_REPLY, Reply, Report};
use crate::config::{Limits, StoreConfig};
use crate::error::LayerError;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A process that has its namespaces and ids. Killed when dropped.
pub(crate) struct Helper {
    child: Child,
    replies: tokio::io::Take<BufReader<ChildStdout>>,
    complaints: tokio::task::JoinHandle<String>,
    socket: StdUnixStream,
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl FnOnce(E) -> LayerError {
    move |error| LayerError::Helper { step, reason: error.to_string() }
}

impl Helper {
    pub(crate) async fn start(config: &StoreConfig, ids: &Extents) -> Result<Self, LayerError> {
        tokio::time::timeout(START_TIMEOUT, Self::start_unbounded(config, ids))
            .await
            .map_err(|_| LayerError::Helper { step: "did not start", reason: "no answer in time".into() })?
    }

    async fn start_unbounded(config: &StoreConfig, ids: &Extents) -> Result<Self, LayerError> {
        let (socket, theirs) = StdUnixStream::pair().map_err(failed("cannot get a socket"))?;
        let mut child = Command::new(&config.unpacker)
            .arg("unpack")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| LayerError::Helper {
                step: "cannot be started",
                reason: format!("{}: {e}", config.unpacker.display()),
            })?;
        let missing = || LayerError::Helper { step: "cannot be started", reason: "it has no output".into() };
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let complaints = tokio::spawn(complaints(child.stderr.take().ok_or_else(missing)?));
        let replies = BufReader::new(stdout).take(MAX_REPLY);
        let mut helper = Self { child, replies, complaints, socket };
        match helper.reply().await? {
            Reply::Unshared => {}
            Reply::Failed(fault) => return Err(fault.into()),
            Reply::Done(_) => {
                return Err(LayerError::Helper { step: "did not start", reason: "out of turn".into() });
            }
        }
        let pid = helper.child.id().ok_or_else(missing)?;
        map_ids(pid, ids).await?;
        Ok(helper)
    }

    pub(crate) fn unpack(
        &mut self,
        limits: &Limits,
        ids: u32,
        dir: &OwnedFd,
    ) -> Result<UnixStream, LayerError> {
        self.send(&Job::Unpack { limits: limits.clone(), ids }, dir)
    }

    /// Hands over the job; what follows on the returned socket is the layer.
    fn send(&mut self, job: &Job, dir: &OwnedFd) -> Result<UnixStream, LayerError> {
        let step = "cannot be given its job";
        let text = serde_json::to_vec(job).map_err(failed(step))?;
        let mut message = u32::try_from(text.len()).map_err(failed(step))?.to_le_bytes().to_vec();
        message.extend(text);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [dir.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        // A few hundred bytes into an empty socket: all or nothing, and without waiting.
        let sent =
            rustix::net::sendmsg(&self.socket, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)
                .map_err(failed(step))?;
        if sent != message.len() {
            return Err(LayerError::Helper { step, reason: "the socket took only a part".into() });
        }
        let socket = self.socket.try_clone().map_err(failed(step))?;
        socket.set_nonblocking(true).map_err(failed(step))?;
        UnixStream::from_std(socket).map_err(failed(step))
    }

    /// The outcome of the job.
    pub(crate) async fn outcome(&mut self) -> Result<Report, LayerError> {
        match self.reply().await? {
            Reply::Done(report) => {
                for warning in &report.warnings {
                    tracing::warn!(%warning, "image unpacker");
                }
                Ok(report)
            }
            Reply::Failed(fault) => Err(fault.into()),
            Reply::Unshared => {
                Err(LayerError::Helper { step: "answered out of turn", reason: "unshared".into() })
            }
        }
    }

    async fn reply(&mut self) -> Result<Reply, LayerError> {
        let mut line = Vec::new();
        self.replies.read_until(b'\n', &mut line).await.map_err(failed("cannot be heard"))?;
        if line.is_empty() {
            return Err(self.died().await);
        }
        serde_json::from_slice(&line).map_err(failed("gave a wrong answer"))
    }

    /// Why it ended without an answer.
    async fn died(&mut self) -> LayerError {
        let status = self.child.wait().await.map_or_else(|e| e.to_string(), |s: ExitStatus| s.to_string());
        let words = (&mut self.complaints).await.unwrap_or_default();
        LayerError::Helper { step: "ended without an answer", reason: format!("{status} {}", words.trim()) }
    }

    /// Ends the process and waits until it is gone, so that nothing writes into its directory any more.
    pub(crate) async fn end(mut self) {
        let _ = self.child.start_kill();
        let _ = self.child.wait().await;
    }
}

/// The last words of the process, for an error message; the pipe is read to its end in any case.
async fn complaints(mut stderr: ChildStderr) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        if kept.len() > 4096 {
            kept.drain(..kept.len() - 2048);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// 0 is this process's own id; the rest are subordinate ids.
async fn map_ids(pid: u32, ids: &Extents) -> Result<(), LayerError> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    tokio::try_join!(
        run_mapper("newuidmap", pid, uid, &ids.uids),
        run_mapper("newgidmap", pid, gid, &ids.gids),
    )?;
    Ok(())
}

async fn run_mapper(program: &'static str, pid: u32, own: u32, extents: &[Extent]) -> Result<(), LayerError> {
    let step = "cannot be given its ids";
    let numbers = [pid, 0, own, 1].into_iter();
    let numbers = numbers.chain(extents.iter().flat_map(|e| [e.inside, e.outside, e.count]));
    let arguments: Vec<String> = numbers.map(|n| n.to_string()).collect();
    let output = Command::new(program)
        .args(&arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| LayerError::Helper {
            step,
            reason: format!("{program}: {e} (Debian: package uidmap)"),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LayerError::Helper { step, reason: format!("{program} {}: {words}", arguments.join(" ")) })
}

/// Removes a tree; see [`crate::ImageStore::remove_tree`].
pub(crate) async fn remove_tree(config: &StoreConfig, path: &Path) -> Result<(), LayerError> {
    let problem = |action: &'static str, error: std::io::Error| LayerError::Store {
        action,
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        // A link or a file is removed as what it is.
        Err(rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return std::fs::remove_file(path).map_err(|e| problem("removing", e));
        }
        Err(error) => return Err(problem("opening", error.into())),
    };
    // Already empty: no process needed.
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    run(config, &config.all_ids(), &Job::Empty, &dir).await?;
    std::fs::remove_dir(path).map_err(|e| problem("removing", e))
}

/// Does one job that needs nothing but its directory.
pub(crate) async fn run(
    config: &StoreConfig,
    ids: &Extents,
    job: &Job,
    dir: &OwnedFd,
) -> Result<Report, LayerError> {
    let mut helper = Helper::start(config, ids).await?;
    let outcome = match helper.send(job, dir) {
        // Held until the answer: to the child its end would be the end of its input.
        Ok(_socket) => helper.outcome().await,
        Err(error) => Err(error),
    };
    helper.end().await;
    outcome
}

/// A descriptor of a directory for a job.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd, LayerError> {
    File::open(path).map(OwnedFd::from).map_err(|e| LayerError::Store {
        action: "opening",
        path: path.display().to_string(),
        reason: e.to_string(),
    })
}
