//! The supervisor's handle on one sandbox: start it, find it again, wait for it, end it.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::{Mutex, watch},
};

use crate::{
    SandboxPlan,
    cgroup::{self, CgroupPlan, Stats},
    keeper::{AGENT_SOCKET, FromKeeper, KEEPER_SOCKET, PROTOCOL, ToKeeper},
    userns,
};

/// How long a keeper may take from its start to a running agent.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_LINE: u64 = 1 << 20;
const CGROUP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("starting the keeper: {0}")]
    Spawn(io::Error),
    #[error("opening the keeper's log {path}: {source}", path = path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("mapping ids for the sandbox: {0}")]
    Map(#[from] userns::MapError),
    #[error("talking to the keeper: {0}")]
    Channel(#[from] ChannelError),
    #[error("{message}")]
    Keeper { message: String },
    #[error("the keeper did not finish within {START_TIMEOUT:?}")]
    Timeout,
}

#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    #[error("connecting to the keeper at {path}: {source}", path = path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the keeper at {path} belongs to user {uid}", path = path.display())]
    Stranger { path: PathBuf, uid: u32 },
    #[error("talking to the keeper: {0}")]
    Channel(#[from] ChannelError),
    #[error("the keeper speaks protocol {found}; this supervisor speaks {PROTOCOL}")]
    Protocol { found: u32 },
    #[error("the keeper holds workspace {found}, not {wanted}")]
    OtherWorkspace { found: String, wanted: String },
    #[error("the keeper did not answer")]
    Timeout,
}

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("a message was not understood: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("the keeper closed the connection; see its log")]
    Closed,
    #[error("an unexpected message came")]
    Unexpected,
}

#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error("the sandbox was still there after {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxExit {
    pub message: String,
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The kernel killed processes in it for want of memory.
    pub oom: bool,
}

/// A running sandbox. Dropping it leaves the sandbox running.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    agent_socket: PathBuf,
    cgroup: Option<CgroupPlan>,
    warnings: Vec<String>,
    steps: Vec<(String, u64)>,
    writer: Mutex<OwnedWriteHalf>,
    exit: watch::Receiver<Option<SandboxExit>>,
}

impl Sandbox {
    /// Starts a keeper, which is this same program with the argument `keeper`, and waits until the agent runs.
    ///
    /// Cancelling the future ends the keeper and with it whatever it has made so far, except its cgroups, which
    /// [`Sandbox::clean`] removes.
    pub async fn start(plan: &SandboxPlan) -> Result<Self, StartError> {
        let log_path = plan.run_dir.join("keeper.log");
        let log =
            std::fs::File::create(&log_path).map_err(|source| StartError::Log { path: log_path, source })?;
        let (ours, theirs) = StdUnixStream::pair().map_err(StartError::Spawn)?;
        ours.set_nonblocking(true).map_err(StartError::Spawn)?;
        let mut channel = Channel::new(UnixStream::from_std(ours).map_err(StartError::Spawn)?);
        let program = std::env::current_exe().map_err(StartError::Spawn)?;
        let keeper = Command::new(program)
            .arg("keeper")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(log))
            .process_group(0)
            .spawn()
            .map_err(StartError::Spawn)?;
        let mut keeper = Unfinished(Some(keeper));
        let pid = keeper
            .0
            .as_ref()
            .and_then(Child::id)
            .ok_or_else(|| StartError::Spawn(io::ErrorKind::NotFound.into()))?;
        let started = tokio::time::timeout(START_TIMEOUT, handshake(&mut channel, pid, plan)).await;
        let started = started.map_err(|_| StartError::Timeout)??;
        let sandbox = Self::watch(channel, &plan.run_dir, plan.cgroup.clone(), started);
        // From here on the keeper lives by itself; it is only reaped when it ends while we are still its parent.
        if let Some(mut keeper) = keeper.0.take() {
            tokio::spawn(async move { keeper.wait().await });
        }
        Ok(sandbox)
    }

    /// Finds the keeper of workspace `id`, which an earlier supervisor started.
    pub async fn adopt(run_dir: &Path, id: &str, cgroup: Option<CgroupPlan>) -> Result<Self, AdoptError> {
        let path = run_dir.join(KEEPER_SOCKET);
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|source| AdoptError::Connect { path: path.clone(), source })?;
        let peer = stream.peer_cred().map_err(|source| AdoptError::Connect { path: path.clone(), source })?;
        if peer.uid() != nix::unistd::getuid().as_raw() {
            return Err(AdoptError::Stranger { path, uid: peer.uid() });
        }
        let mut channel = Channel::new(stream);
        let hello = tokio::time::timeout(Duration::from_secs(10), channel.receive()).await;
        match hello.map_err(|_| AdoptError::Timeout)?? {
            FromKeeper::Running { protocol, .. } if protocol != PROTOCOL => {
                Err(AdoptError::Protocol { found: protocol })
            }
            FromKeeper::Running { id: found, .. } if found != id => {
                Err(AdoptError::OtherWorkspace { found, wanted: id.to_owned() })
            }
            FromKeeper::Running { warnings, steps, .. } => {
                Ok(Self::watch(channel, run_dir, cgroup, Started { warnings, steps }))
            }
            _ => Err(ChannelError::Unexpected.into()),
        }
    }

    /// Removes what a keeper that is gone left in the cgroup tree.
    pub async fn clean(cgroup: CgroupPlan) -> Result<(), cgroup::CgroupError> {
        let removed = tokio::task::spawn_blocking(move || {
            cgroup.kill()?;
            cgroup.remove(CGROUP_TIMEOUT)
        });
        removed.await.unwrap_or(Ok(()))
    }

    fn watch(channel: Channel, run_dir: &Path, cgroup: Option<CgroupPlan>, started: Started) -> Self {
        let Channel { mut reader, writer } = channel;
        let (tell, exit) = watch::channel(None);
        tokio::spawn(async move {
            let exit = loop {
                match receive(&mut reader).await {
                    Ok(FromKeeper::Exited { code, signal, oom_kills }) => {
                        break describe(code, signal, oom_kills > 0);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        break SandboxExit {
                            message: format!("the keeper ended without a word ({error})"),
                            code: None,
                            signal: None,
                            oom: false,
                        };
                    }
                }
            };
            let _ = tell.send(Some(exit));
        });
        let agent_socket = run_dir.join(AGENT_SOCKET);
        let Started { warnings, steps } = started;
        Self {
            inner: Arc::new(Inner {
                agent_socket,
                cgroup,
                warnings,
                steps,
                writer: Mutex::new(writer),
                exit,
            }),
        }
    }

    /// Where the agent is reached. No tenant can reach or replace this socket.
    pub fn agent_socket(&self) -> &Path {
        &self.inner.agent_socket
    }

    /// What this sandbox could not be given, in words.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Name and microseconds of each step of the start; empty after [`Sandbox::adopt`].
    pub fn steps(&self) -> &[(String, u64)] {
        &self.inner.steps
    }

    /// Current use; zeroes where the node has no cgroups for us.
    pub fn stats(&self) -> Stats {
        self.inner.cgroup.as_ref().map(cgroup::stats).unwrap_or_default()
    }

    /// Returns when PID 1 of the sandbox has ended, or its keeper has.
    pub async fn wait(&self) -> SandboxExit {
        let mut exit = self.inner.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended.unwrap_or_else(|| describe(None, None, false))
    }

    /// Ends every process in the sandbox, waits for the keeper's word, and removes the cgroups.
    pub async fn kill(&self, timeout: Duration) -> Result<(), KillError> {
        // A failed write means that the keeper is gone, which `wait` finds out too.
        let _ = send(&mut *self.inner.writer.lock().await, &ToKeeper::Kill).await;
        let ended = tokio::time::timeout(timeout, self.wait()).await;
        // A keeper that hangs does not keep its sandbox alive where the kernel can kill a cgroup.
        if let Some(cgroup) = self.inner.cgroup.clone() {
            Self::clean(cgroup).await?;
        }
        ended.map(drop).map_err(|_| KillError::Timeout(timeout))
    }
}

struct Started {
    warnings: Vec<String>,
    steps: Vec<(String, u64)>,
}

/// A keeper whose sandbox is not up yet; it ends with the start that wanted it. `kill_on_drop` would end it with the
/// supervisor, too.
struct Unfinished(Option<Child>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.0 {
            // An error means that it has ended by itself.
            let _ = keeper.start_kill();
        }
    }
}

async fn handshake(channel: &mut Channel, pid: u32, plan: &SandboxPlan) -> Result<Started, StartError> {
    send(&mut channel.writer, &ToKeeper::Start(plan.clone())).await?;
    loop {
        match channel.receive().await? {
            FromKeeper::NeedMaps => {
                userns::map_child(pid, &plan.ids).await?;
                send(&mut channel.writer, &ToKeeper::Mapped).await?;
            }
            FromKeeper::Running { warnings, steps, .. } => {
                tracing::debug!(workspace = plan.id, ?steps, "keeper steps in microseconds");
                return Ok(Started { warnings, steps });
            }
            FromKeeper::Failed { message } => return Err(StartError::Keeper { message }),
            FromKeeper::Exited { .. } => return Err(ChannelError::Unexpected.into()),
        }
    }
}

fn describe(code: Option<i32>, signal: Option<i32>, oom: bool) -> SandboxExit {
    let how = match (code, signal) {
        (Some(code), _) => format!("PID 1 of the sandbox exited with code {code}"),
        (None, Some(signal)) => format!("PID 1 of the sandbox was ended by signal {signal}"),
        (None, None) => "PID 1 of the sandbox ended".to_owned(),
    };
    let message = if oom { format!("{how} after the sandbox ran out of memory") } else { how };
    SandboxExit { message, code, signal, oom }
}

struct Channel {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Channel {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    async fn receive(&mut self) -> Result<FromKeeper, ChannelError> {
        receive(&mut self.reader).await
    }
}

async fn receive(reader: &mut BufReader<OwnedReadHalf>) -> Result<FromKeeper, ChannelError> {
    let mut line = Vec::new();
    reader.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(ChannelError::Closed);
    }
    Ok(serde_json::from_slice(&line)?)
}

async fn send(writer: &mut OwnedWriteHalf, message: &ToKeeper) -> Result<(), ChannelError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(writer.write_all(&line).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_in_words() {
        assert_eq!(describe(Some(3), None, false).message, "PID 1 of the sandbox exited with code 3");
        assert!(
            describe(None, Some(9), true).message.ends_with("signal 9 after the sandbox ran out of memory")
        );
    }
}
