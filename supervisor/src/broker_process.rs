//! Keeps a broker running beside the supervisor. It is a process of its own, in its own session, and outlives us.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::socket_peercred,
    },
    process::{PidfdFlags, pidfd_open},
};
use tokio::{process::Command, sync::oneshot, time::sleep};
use tokio_util::sync::CancellationToken;

/// How long a new broker may take to listen.
const READY: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// No broker can be had.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be started.
    #[error("starting the egress broker {}: {source}", program.display())]
    Spawn {
        /// This program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended at once.
    #[error("the egress broker has ended: {last_words}")]
    Ended {
        /// The last line of its log.
        last_words: String,
    },
    /// It does not listen.
    #[error("the egress broker does not listen on {} after {READY:?}: see {}", socket.display(), log.display())]
    Silent {
        /// Where it should.
        socket: PathBuf,
        /// Its own words.
        log: PathBuf,
    },
}

/// How to have a broker.
#[derive(Debug, Clone)]
pub struct Broker {
    /// This program.
    pub program: PathBuf,
    /// Where it takes registrations.
    pub socket: PathBuf,
    /// Where its words go.
    pub log: PathBuf,
}

impl Broker {
    /// Finds the running broker or starts one, and returns when it listens.
    pub async fn ensure(&self) -> Result<OwnedFd, BrokerError> {
        if let Some(running) = find(&self.socket) {
            return Ok(running);
        }
        let spawn = |source| BrokerError::Spawn { program: self.program.clone(), source };
        // To be read too, so that it can keep its own log within a bound.
        let log =
            std::fs::File::options().create(true).read(true).append(true).open(&self.log).map_err(spawn)?;
        let child = Command::new(&self.program)
            .arg("broker")
            .arg("--detach")
            .arg("--socket")
            .arg(&self.socket)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(spawn)?;
        let mut child = Some(child);
        let silent = || BrokerError::Silent { socket: self.socket.clone(), log: self.log.clone() };
        let deadline = tokio::time::Instant::now() + READY;
        loop {
            if let Some(running) = find(&self.socket) {
                // Reaped when it ends while we are its parent.
                if let Some(mut child) = child.take() {
                    tokio::spawn(async move { child.wait().await });
                }
                return Ok(running);
            }
            if child.as_mut().and_then(|child| child.try_wait().ok().flatten()).is_some() {
                return Err(BrokerError::Ended { last_words: self.last_words() });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(silent());
            }
            sleep(POLL).await;
        }
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().last().unwrap_or("it said nothing").to_owned()
    }

    /// Starts another broker whenever the running one has ended, until `shutdown`.
    pub async fn watch(self, mut running: OwnedFd, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = ended(running) => tracing::error!("the egress broker has ended: workspaces are cut off; starting another"),
            }
            let mut retry = FIRST_RETRY;
            running = loop {
                match self.ensure().await {
                    Ok(running) => break running,
                    Err(error) => tracing::error!(%error, "no egress broker; trying again"),
                }
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
                }
            };
        }
    }
}

/// The process that listens on the socket, if one does. Registrations are packets, so this is no stream.
fn find(path: &Path) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
    connect(&socket, &SocketAddrUnix::new(path).ok()?).ok()?;
    pidfd_open(socket_peercred(&socket).ok()?.pid, PidfdFlags::empty()).ok()
}

/// Returns when the process has ended. A thread of its own waits, because that may take for ever.
async fn ended(process: OwnedFd) {
    let (tell, told) = oneshot::channel::<()>();
    let waiting = std::thread::Builder::new().name("broker-watch".to_owned()).spawn(move || {
        // A pidfd becomes readable when its process has ended.
        while let Err(Errno::INTR) = poll(&mut [PollFd::new(&process, PollFlags::IN)], None) {}
        drop(tell);
    });
    match waiting {
        // The other end is only ever dropped.
        Ok(_) => drop(told.await),
        Err(error) => {
            tracing::warn!(%error, "watching the egress broker");
            std::future::pending::<()>().await;
        }
    }
}
