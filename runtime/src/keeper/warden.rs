//! The keeper's only child besides its sandbox: watches what the sandbox uses, and tells the keeper.
//!
//! ```text
//!  keeper ── fork, before it gives everything up ──▶ warden ── fork ──▶ walker, for each measurement of the storage
//!     ◀── out-of-memory kills, storage used, the run must end ──│
//! ```
//! Looking at other ids' files and processes needs what the keeper must not keep, so it is done elsewhere: the warden may
//! read, and nothing else. It ends with its keeper.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant, SystemTime},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use super::{
    confine,
    oom::OomWatch,
    protocol::{Connection, FromKeeper, ProtocolError},
    storage::StorageWatch,
};
use crate::{SandboxPlan, sys};

/// The keeper's end.
pub(crate) struct Warden {
    connection: Connection,
    pid: Pid,
}

impl Warden {
    /// To be called while the process has one thread and all its capabilities. The sandbox was started at `began`.
    pub(super) fn start(plan: &SandboxPlan, volume: OwnedFd, began: SystemTime) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let keeper = nix::unistd::getpid();
        let pid = sys::fork_child(move || match work(plan, volume, began, theirs.into(), keeper) {
            Ok(()) => 0,
            Err(error) => {
                tracing::error!(%error, "watching memory and storage");
                1
            }
        })?;
        Ok(Self { connection: Connection::new(ours), pid })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.stream().as_fd()
    }

    /// How it ended, in words, once it has closed the connection: only its end does.
    pub(super) fn end(self) -> String {
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => format!("exited with code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was ended by {signal}"),
            Ok(status) => format!("{status:?}"),
            Err(error) => error.to_string(),
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.connection.has_more()
    }

    pub(super) fn receive(&mut self) -> Result<FromKeeper, ProtocolError> {
        self.connection.receive()
    }
}

fn work(
    plan: &SandboxPlan,
    volume: OwnedFd,
    began: SystemTime,
    to_keeper: OwnedFd,
    keeper: Pid,
) -> io::Result<()> {
    sys::die_with_parent()?;
    // It may have ended before that was asked for.
    if nix::unistd::getppid() != keeper {
        return Ok(());
    }
    sys::keep_only(&[&volume, &to_keeper])?;
    let mut oom = plan.cgroup.as_ref().and_then(|cgroup| OomWatch::new(cgroup, plan.limits.memory_mib));
    confine::confine_warden().map_err(io::Error::other)?;
    let mut storage = StorageWatch::new(volume, &plan.limits, plan.cgroup.clone(), began);
    let mut to_keeper = Connection::new(to_keeper.into());
    loop {
        let ready = wait(oom.as_ref(), storage.as_ref(), to_keeper.stream())?;
        if ready.keeper {
            // It never says anything: this is its end.
            return Ok(());
        }
        let now = Instant::now();
        let mut tell = |message: FromKeeper| to_keeper.send(&message).map_err(io::Error::other);
        if let Some(report) = oom.as_mut().and_then(|oom| oom.turn(now, ready.oom)) {
            tell(FromKeeper::OomKill { kills: report.kills, victim: report.victim })?;
        }
        if let Some(finding) = storage.as_mut().and_then(|storage| storage.turn(now, ready.storage)) {
            tell(FromKeeper::Storage { usage: finding.usage, warning: finding.warning })?;
            if let Some(message) = finding.exceeded {
                tell(FromKeeper::StorageExceeded { message })?;
            }
        }
    }
}

struct Ready {
    keeper: bool,
    storage: bool,
    oom: bool,
}

fn wait(oom: Option<&OomWatch>, storage: Option<&StorageWatch>, keeper: &UnixStream) -> io::Result<Ready> {
    let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let walk = storage.and_then(StorageWatch::fd);
    let mut fds = vec![watch(keeper.as_fd())];
    fds.extend(walk.map(watch));
    fds.extend(oom.into_iter().flat_map(OomWatch::fds).map(watch));
    let deadline = storage.and_then(StorageWatch::deadline).into_iter();
    let deadline = deadline.chain(oom.and_then(OomWatch::deadline)).min();
    let timeout = deadline.map_or(PollTimeout::NONE, |at| {
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut ready = fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
    Ok(Ready {
        keeper: ready.next().unwrap_or(false),
        storage: walk.is_some() && ready.next().unwrap_or(false),
        oom: ready.any(|ready| ready),
    })
}
