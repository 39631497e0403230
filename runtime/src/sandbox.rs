//! The supervisor's handle on one sandbox: start it, find it again, wait for it, end it.

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{PidfdFlags, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, Command},
    sync::{Mutex, mpsc, watch},
};

use crate::{
    IdMap, IdRange, SANDBOX_IDS, SandboxPlan, Usage,
    cgroup::{self, CgroupPlan, Stats},
    keeper::{AGENT_SOCKET, FromKeeper, KEEPER_SOCKET, PROTOCOL, ToKeeper},
    ready_keeper::ReadyKeeper,
    userns,
};

/// How long a keeper may take from its start to a running agent.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_LINE: u64 = 1 << 20;
/// How long a keeper may take to put a policy in force, with a broker that decides on every open flow again.
const POLICY_TIMEOUT: Duration = Duration::from_secs(10);
const POLICY_ANSWERS: usize = 16;
const CGROUP_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("starting the keeper: {0}")]
    Spawn(io::Error),
    #[error("noting the cgroup of the run in {path}: {source}", path = path.display())]
    Note { path: PathBuf, source: io::Error },
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

impl AdoptError {
    /// Whether the keeper was ended because of this.
    pub fn ends_the_keeper(&self) -> bool {
        matches!(self, Self::Protocol { .. } | Self::Timeout | Self::Channel(_))
    }
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

/// Why a running sandbox's egress policy was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("telling the keeper: {0}")]
    Send(#[source] ChannelError),
    #[error("the keeper refused the policy: {0}")]
    Refused(String),
    #[error("the keeper is gone")]
    Gone,
    #[error("the keeper did not answer within {POLICY_TIMEOUT:?}")]
    Timeout,
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
    /// The kernel killed it for want of memory.
    pub oom: bool,
    /// It was ended because of what its files take: why.
    pub storage: Option<String>,
}

/// What the keeper has found out about memory and storage so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reported {
    /// Processes that the kernel ended for want of memory.
    pub oom_kills: u64,
    /// The last of them, as `NAME (pid N)`, if it was seen.
    pub oom_victim: Option<String>,
    /// What the workspace's files take, and when that was measured.
    pub storage: Option<(Usage, SystemTime)>,
    /// In words.
    pub warnings: Vec<String>,
    /// Why it is being ended, if its files are the reason.
    pub storage_exceeded: Option<String>,
}

/// How many warnings one run can collect here.
const WARNINGS: usize = 16;

impl Reported {
    /// Takes in one message; false when it is of another kind.
    fn learn(&mut self, message: FromKeeper) -> bool {
        let mut warning = None;
        match message {
            FromKeeper::OomKill { kills, victim } => {
                self.oom_kills = kills;
                self.oom_victim = victim;
            }
            FromKeeper::Storage { usage, warning: said } => {
                self.storage = Some((usage, SystemTime::now()));
                warning = said;
            }
            FromKeeper::StorageExceeded { message } => self.storage_exceeded = Some(message),
            FromKeeper::Warning(text) => warning = Some(text),
            _ => return false,
        }
        if let Some(text) = warning.filter(|text| !self.warnings.contains(text))
            && self.warnings.len() < WARNINGS
        {
            self.warnings.push(text);
        }
        true
    }
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
    policy_answers: Mutex<PolicyAnswers>,
    exit: watch::Receiver<Option<SandboxExit>>,
    reported: watch::Receiver<Reported>,
}

/// Answers come in the order of the questions.
#[derive(Debug)]
struct PolicyAnswers {
    channel: mpsc::Receiver<Option<String>>,
    /// Questions whose answers nobody waited for.
    late: usize,
}

impl Sandbox {
    /// Starts a keeper, which is this same program with the argument `keeper`, and waits until the agent runs.
    ///
    /// Cancelling the future ends the keeper and with it whatever it has made so far, except its cgroups, which
    /// [`Sandbox::clean`] removes. A [`Pool`](crate::Pool) starts sandboxes faster, and cleans up.
    pub async fn start(plan: &SandboxPlan) -> Result<Self, StartError> {
        ReadyKeeper::make(&plan.ids, plan.cgroup.clone()).await?.start(plan.clone()).await
    }

    /// Finds the keeper of workspace `id`, which an earlier supervisor started.
    ///
    /// One that cannot be talked to, because it is of another version or does not answer, is ended: nobody could stop its
    /// sandbox any more. What is left of its cgroup is then for [`Sandbox::clean`] to end and remove.
    pub async fn adopt(run_dir: &Path, id: &str, cgroup: Option<CgroupPlan>) -> Result<Self, AdoptError> {
        let path = run_dir.join(KEEPER_SOCKET);
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|source| AdoptError::Connect { path: path.clone(), source })?;
        let peer = stream.peer_cred().map_err(|source| AdoptError::Connect { path: path.clone(), source })?;
        if peer.uid() != nix::unistd::getuid().as_raw() {
            return Err(AdoptError::Stranger { path, uid: peer.uid() });
        }
        let adopted = Self::greet(Channel::new(stream), run_dir, id, cgroup).await;
        if adopted.as_ref().is_err_and(AdoptError::ends_the_keeper) {
            end_keeper(peer.pid()).await;
        }
        adopted
    }

    async fn greet(
        mut channel: Channel,
        run_dir: &Path,
        id: &str,
        cgroup: Option<CgroupPlan>,
    ) -> Result<Self, AdoptError> {
        let hello = tokio::time::timeout(Duration::from_secs(10), channel.receive()).await;
        match hello.map_err(|_| AdoptError::Timeout)?? {
            FromKeeper::Running { protocol, .. } if protocol != PROTOCOL => {
                Err(AdoptError::Protocol { found: protocol })
            }
            FromKeeper::Running { id: found, .. } if found != id => {
                Err(AdoptError::OtherWorkspace { found, wanted: id.to_owned() })
            }
            FromKeeper::Running { cgroup: found, warnings, steps, .. } => {
                Ok(Self::watch(channel, run_dir, found.or(cgroup), Started { warnings, steps }))
            }
            _ => Err(ChannelError::Unexpected.into()),
        }
    }

    /// Removes what a keeper that is gone left in the cgroup tree.
    pub async fn clean(cgroup: CgroupPlan) -> Result<(), cgroup::CgroupError> {
        match remove(cgroup.clone()).await {
            Err(error) if error.is_denied_removal() => {
                let swept = sweep(&cgroup).await;
                swept.map_err(|error| cgroup::CgroupError::Sweep(error.to_string()))?;
                remove(cgroup).await
            }
            other => other,
        }
    }

    pub(crate) fn watch(
        channel: Channel,
        run_dir: &Path,
        cgroup: Option<CgroupPlan>,
        started: Started,
    ) -> Self {
        let Channel { mut reader, writer } = channel;
        let (tell, exit) = watch::channel(None);
        let (learned, reported) = watch::channel(Reported::default());
        let (answer, answers) = mpsc::channel(POLICY_ANSWERS);
        tokio::spawn(async move {
            let exit = loop {
                match receive(&mut reader).await {
                    Ok(FromKeeper::Exited { code, signal, oom_kills }) => {
                        let storage = learned.borrow().storage_exceeded.clone();
                        break SandboxExit { storage, ..describe(code, signal, oom_kills > 0) };
                    }
                    // A keeper that answers what nobody asked is not listened to.
                    Ok(FromKeeper::PolicySet { error }) => drop(answer.try_send(error)),
                    Ok(message) => {
                        learned.send_if_modified(|reported| reported.learn(message));
                    }
                    Err(error) => {
                        break SandboxExit {
                            message: format!("the keeper ended without a word ({error})"),
                            code: None,
                            signal: None,
                            oom: false,
                            storage: None,
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
                policy_answers: Mutex::new(PolicyAnswers { channel: answers, late: 0 }),
                exit,
                reported,
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

    /// What the keeper has found out, now and whenever there is more.
    pub fn reported(&self) -> watch::Receiver<Reported> {
        self.inner.reported.clone()
    }

    /// Returns when PID 1 of the sandbox has ended, or its keeper has.
    pub async fn wait(&self) -> SandboxExit {
        let mut exit = self.inner.exit.clone();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended.unwrap_or_else(|| describe(None, None, false))
    }

    /// Changes what the sandbox may reach and, unless they stay, its credentials. In force when this
    /// returns.
    pub async fn set_policy(
        &self,
        policy: &cordium_egress::Policy,
        renewal: Option<&cordium_broker::Renewal>,
    ) -> Result<(), PolicyError> {
        let mut answers = self.inner.policy_answers.lock().await;
        let message = ToKeeper::SetPolicy {
            policy: policy.clone(),
            bindings: renewal.map(|renewal| renewal.bindings.clone()),
            services: renewal.map(|renewal| renewal.services.clone()),
        };
        send(&mut *self.inner.writer.lock().await, &message).await.map_err(PolicyError::Send)?;
        answers.late += 1;
        let answer = async {
            loop {
                let answer = answers.channel.recv().await.ok_or(PolicyError::Gone)?;
                answers.late -= 1;
                if answers.late == 0 {
                    return answer.map_or(Ok(()), |error| Err(PolicyError::Refused(error)));
                }
            }
        };
        tokio::time::timeout(POLICY_TIMEOUT, answer).await.unwrap_or(Err(PolicyError::Timeout))
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

pub(crate) struct Started {
    pub(crate) warnings: Vec<String>,
    pub(crate) steps: Vec<(String, u64)>,
}

async fn remove(cgroup: CgroupPlan) -> Result<(), cgroup::CgroupError> {
    let removed = tokio::task::spawn_blocking(move || {
        cgroup.kill()?;
        cgroup.remove(CGROUP_TIMEOUT)
    });
    removed.await.unwrap_or(Ok(()))
}

/// Has a keeper remove the cgroups that a sandbox made, which only the root of their ids can.
async fn sweep(cgroup: &CgroupPlan) -> Result<(), StartError> {
    let Some((uid, gid)) = cgroup.delegatee() else { return Ok(()) };
    let range = |host_start| IdRange { host_start, count: SANDBOX_IDS };
    let ids = IdMap { uid: range(uid), gid: range(gid) };
    let (mut keeper, mut channel) = spawn_keeper(Stdio::null())?;
    let pid = keeper.id().ok_or_else(|| StartError::Spawn(io::ErrorKind::NotFound.into()))?;
    let talk = async {
        send(&mut channel.writer, &ToKeeper::Sweep(cgroup.clone())).await?;
        loop {
            match channel.receive().await? {
                FromKeeper::NeedMaps => {
                    userns::map_child(pid, &ids).await?;
                    send(&mut channel.writer, &ToKeeper::Mapped).await?;
                }
                FromKeeper::Exited { .. } => return Ok(()),
                FromKeeper::Failed { message } => return Err(StartError::Keeper { message }),
                _ => return Err(ChannelError::Unexpected.into()),
            }
        }
    };
    let swept = tokio::time::timeout(START_TIMEOUT, talk).await.unwrap_or(Err(StartError::Timeout));
    // It has ended, or hangs.
    let _ = keeper.kill().await;
    swept
}

/// A keeper is this same program; the channel is its standard input.
pub(crate) fn spawn_keeper(stderr: Stdio) -> Result<(Child, Channel), StartError> {
    let (ours, theirs) = StdUnixStream::pair().map_err(StartError::Spawn)?;
    ours.set_nonblocking(true).map_err(StartError::Spawn)?;
    let channel = Channel::new(UnixStream::from_std(ours).map_err(StartError::Spawn)?);
    let program = std::env::current_exe().map_err(StartError::Spawn)?;
    let keeper = Command::new(program)
        .arg("keeper")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(stderr)
        .process_group(0)
        .spawn()
        .map_err(StartError::Spawn)?;
    Ok((keeper, channel))
}

fn describe(code: Option<i32>, signal: Option<i32>, oom: bool) -> SandboxExit {
    let how = match (code, signal) {
        (Some(code), _) => format!("PID 1 of the sandbox exited with code {code}"),
        (None, Some(signal)) => format!("PID 1 of the sandbox was ended by signal {signal}"),
        (None, None) => "PID 1 of the sandbox ended".to_owned(),
    };
    // Processes that were killed before are another story.
    let oom = oom && signal == Some(libc::SIGKILL);
    let message = if oom { format!("{how} after the sandbox ran out of memory") } else { how };
    SandboxExit { message, code, signal, oom, storage: None }
}

pub(crate) struct Channel {
    reader: BufReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

impl Channel {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    pub(crate) async fn receive(&mut self) -> Result<FromKeeper, ChannelError> {
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

pub(crate) async fn send(writer: &mut OwnedWriteHalf, message: &ToKeeper) -> Result<(), ChannelError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(writer.write_all(&line).await?)
}

/// Kills the process at the other end of a socket and waits until it is gone.
async fn end_keeper(pid: Option<i32>) {
    let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { return };
    let ended = tokio::task::spawn_blocking(move || -> io::Result<bool> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        pidfd_send_signal(&pidfd, rustix::process::Signal::KILL)?;
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? > 0)
    });
    let pid = pid.as_raw_nonzero();
    match ended.await {
        Ok(Ok(true)) => tracing::warn!(pid, "ended a keeper that cannot be talked to"),
        Ok(Ok(false)) => tracing::warn!(pid, "a keeper that cannot be talked to has not ended in 10 s"),
        Ok(Err(error)) => tracing::warn!(pid, %error, "ending a keeper that cannot be talked to"),
        Err(error) => tracing::warn!(pid, %error, "ending a keeper that cannot be talked to"),
    }
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
