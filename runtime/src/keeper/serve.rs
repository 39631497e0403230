//! After the start: reap the sandbox, answer supervisors, stay registered with the broker. One thread, one `poll`.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use cordium_broker::{
    Credentials, RegisterError, Registered, Registration, Renewal, Services, Terms, check_policy,
};
use cordium_egress::Policy;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::wait::{WaitStatus, waitpid},
};
use rustix::process::{Signal, pidfd_send_signal};

use super::{
    agent_log::AgentLog,
    inner::Init,
    protocol::{Connection, FromKeeper, PROTOCOL, ToKeeper},
    warden::Warden,
};
use crate::{SandboxPlan, cgroup, gateway::Listeners};

/// Connections beyond this are closed at once: a node has one supervisor, sometimes two while one takes over.
const MAX_CONNECTIONS: usize = 8;
const RETRY: Duration = Duration::from_millis(200);

/// The gateway's sockets and how to hand them to a broker again when it was restarted.
pub(crate) struct Egress {
    pub(crate) socket: PathBuf,
    pub(crate) registration: Registration,
    /// What holds: the plan's until a supervisor sets another.
    pub(crate) policy: Policy,
    /// The authority is the plan's; the bindings are until a supervisor sets others, perhaps none.
    pub(crate) credentials: Option<Credentials>,
    /// Their secrets are those that a supervisor set last.
    pub(crate) services: Option<Services>,
    pub(crate) listeners: Listeners,
}

impl Egress {
    pub(crate) fn register(&self) -> Result<Registered, RegisterError> {
        cordium_broker::register(
            &self.socket,
            &self.registration,
            Terms {
                policy: &self.policy,
                credentials: self.credentials.as_ref(),
                services: self.services.as_ref(),
            },
            self.listeners.sockets(),
        )
    }
}

/// A sandbox whose agent runs.
pub(crate) struct Running {
    pub(crate) plan: SandboxPlan,
    pub(crate) warnings: Vec<String>,
    pub(crate) init: Init,
    pub(crate) egress: Egress,
    pub(crate) registered: Registered,
    pub(crate) listener: UnixListener,
    pub(crate) warden: Warden,
    /// `egress.socket` is a path through this descriptor.
    pub(crate) _broker_dir: OwnedFd,
}

/// Serves until PID 1 has ended, tells everyone who is connected, and returns.
pub(crate) fn serve(running: Running, supervisor: Connection) -> io::Result<()> {
    running.listener.set_nonblocking(true)?;
    let Running { plan, warnings, init, egress, registered, listener, warden, _broker_dir } = running;
    let mut keeper = Keeper {
        hello: FromKeeper::Running {
            protocol: PROTOCOL,
            id: plan.id.clone(),
            cgroup: plan.cgroup.clone(),
            warnings,
            steps: Vec::new(),
        },
        plan,
        connections: vec![supervisor],
        log: Some(AgentLog::new(init.log)?),
        registered: Some(registered),
        retry_at: None,
        warden: Some(warden),
        told: [None, None],
        egress,
        listener,
        pidfd: init.pidfd,
    };
    while !keeper.turn()? {}
    let (code, signal) = match waitpid(init.pid, None) {
        Ok(WaitStatus::Exited(_, code)) => (Some(code), None),
        Ok(WaitStatus::Signaled(_, signal, _)) => (None, Some(signal as i32)),
        _ => (None, None),
    };
    let oom_kills = keeper.plan.cgroup.as_ref().map_or(0, |plan| cgroup::stats(plan).oom_kills);
    for connection in &mut keeper.connections {
        let _ = connection.send(&FromKeeper::Exited { code, signal, oom_kills });
    }
    Ok(())
}

struct Keeper {
    plan: SandboxPlan,
    hello: FromKeeper,
    connections: Vec<Connection>,
    log: Option<AgentLog>,
    egress: Egress,
    registered: Option<Registered>,
    retry_at: Option<Instant>,
    warden: Option<Warden>,
    /// The newest about memory and about storage, for a supervisor that connects later.
    told: [Option<FromKeeper>; 2],
    listener: UnixListener,
    pidfd: OwnedFd,
}

impl Keeper {
    /// Waits for one round of events. True when PID 1 has ended.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = {
            let mut fds = vec![watch(self.pidfd.as_fd()), watch(self.listener.as_fd())];
            fds.extend(self.connections.iter().map(|connection| watch(connection.stream().as_fd())));
            fds.extend(self.log.iter().map(|log| watch(log.as_fd())));
            fds.extend(self.registered.iter().map(|registered| watch(registered.as_fd())));
            fds.extend(self.warden.iter().map(|warden| watch(warden.as_fd())));
            match poll(&mut fds, self.timeout()) {
                Ok(_) => {}
                Err(nix::Error::EINTR) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            fds.iter().map(|fd| fd.revents().is_some_and(|events| !events.is_empty())).collect::<Vec<_>>()
        };
        let mut ready = ready.into_iter();
        let mut next = || ready.next().unwrap_or(false);
        let exited = next();
        let accept = next();
        let heard: Vec<bool> = self.connections.iter().map(|_| next()).collect();
        let logged = self.log.is_some() && next();
        let broker_gone = self.registered.is_some() && next();
        let warned = self.warden.is_some() && next();
        if logged && !self.log.as_mut().is_some_and(|log| log.copy(&mut io::stderr())) {
            self.log = None;
        }
        if exited {
            return Ok(true);
        }
        if warned {
            self.hear_warden();
        }
        self.answer(&heard);
        if accept {
            self.accept();
        }
        if broker_gone {
            tracing::warn!("the egress broker is gone; nothing leaves until it is back");
            self.registered = None;
            self.retry_at = Some(Instant::now());
        }
        self.register_again();
        Ok(false)
    }

    fn timeout(&self) -> PollTimeout {
        self.retry_at.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        })
    }

    fn register_again(&mut self) {
        if self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        match self.egress.register() {
            Ok(registered) => {
                self.registered = Some(registered);
                self.retry_at = None;
            }
            Err(_) => self.retry_at = Some(Instant::now() + RETRY),
        }
    }

    /// Passes on what the warden has found, and does what must be done at once.
    fn hear_warden(&mut self) {
        self.take_in();
        // What came together must not wait for what comes next.
        while self.warden.as_ref().is_some_and(Warden::has_more) {
            self.take_in();
        }
    }

    fn take_in(&mut self) {
        let Some(warden) = &mut self.warden else { return };
        let message = warden.receive().unwrap_or_else(|error| {
            let end = self.warden.take().map(Warden::end).unwrap_or_default();
            tracing::error!(%error, end, "the warden is gone");
            FromKeeper::Warning(format!(
                "memory and storage of this run are not watched any more: what did so {end}"
            ))
        });
        match &message {
            FromKeeper::OomKill { .. } => self.told[0] = Some(message.clone()),
            FromKeeper::Storage { .. } => self.told[1] = Some(message.clone()),
            FromKeeper::StorageExceeded { message } => {
                tracing::warn!(message, "the sandbox is ended");
                self.kill();
            }
            FromKeeper::Warning(_) => {}
            other => {
                tracing::error!(?other, "the warden said what it has no say in");
                return;
            }
        }
        self.connections.retain_mut(|connection| connection.send(&message).is_ok());
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if self.connections.len() < MAX_CONNECTIONS
            && let Some(mut connection) = greet(stream)
            && connection.send(&self.hello).is_ok()
            && self.told.iter().flatten().all(|message| connection.send(message).is_ok())
        {
            self.connections.push(connection);
        }
    }

    fn answer(&mut self, heard: &[bool]) {
        let mut connections = std::mem::take(&mut self.connections);
        let mut heard = heard.iter().copied();
        connections.retain_mut(|connection| !heard.next().unwrap_or(false) || self.hear(connection));
        self.connections = connections;
    }

    /// Does what a supervisor asks for. False when it is gone or cannot be understood.
    fn hear(&mut self, connection: &mut Connection) -> bool {
        loop {
            match connection.receive() {
                Ok(ToKeeper::Kill) => self.kill(),
                Ok(ToKeeper::SetPolicy { policy, bindings, services }) => {
                    let renewal =
                        bindings.map(|bindings| Renewal { bindings, services: services.unwrap_or_default() });
                    let error = self.set_policy(policy, renewal).err();
                    if connection.send(&FromKeeper::PolicySet { error }).is_err() {
                        return false;
                    }
                }
                Ok(_) | Err(_) => return false,
            }
            // What came together must not wait for what comes next.
            if !connection.has_more() {
                return true;
            }
        }
    }

    /// Has the broker go by another policy and other credentials, now and whenever it is registered with again. Why not, in words.
    fn set_policy(&mut self, mut policy: Policy, renewal: Option<Renewal>) -> Result<(), String> {
        // Whose flows these are stays what it was at the start.
        policy.context = self.egress.policy.context.clone();
        check_policy(&policy)?;
        let mut credentials = self.egress.credentials.clone();
        let mut services = self.egress.services.clone();
        // The authority stays when no binding is left: rules by request need it, too.
        if let Some(Renewal { bindings, services: renewed }) = renewal {
            if let Some(services) = &mut services {
                services.services = renewed;
            }
            match &mut credentials {
                Some(credentials) => credentials.bindings = bindings,
                None if bindings.is_empty() => {}
                None => {
                    return Err("the run began without credentials: it trusts no authority for them".into());
                }
            }
        }
        let terms = Terms { policy: &policy, credentials: credentials.as_ref(), services: services.as_ref() };
        terms.credentials.map_or(Ok(()), Credentials::check).map_err(|error| error.to_string())?;
        terms.services.map_or(Ok(()), Services::check).map_err(|error| error.to_string())?;
        if let Some(registered) = &self.registered {
            match registered.set_policy(terms) {
                Ok(()) => {}
                Err(error) if error.is_refusal() => return Err(error.to_string()),
                Err(error) => {
                    // Which policy holds there is not known: a new registration makes it so, and ends every flow.
                    tracing::warn!(%error, "the egress broker did not take the new policy; registering again");
                    self.registered = None;
                    self.retry_at = Some(Instant::now());
                }
            }
        }
        self.egress.policy = policy;
        self.egress.credentials = credentials;
        self.egress.services = services;
        Ok(())
    }

    /// PID 1's end takes its whole pid namespace with it; `cgroup.kill` first, because it needs no cooperation from
    /// a PID 1 that is stuck in the kernel.
    fn kill(&self) {
        if let Some(Err(error)) = self.plan.cgroup.as_ref().map(cgroup::CgroupPlan::kill) {
            tracing::warn!(%error, "falling back to killing PID 1");
        }
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(%error, "killing PID 1 of the sandbox");
        }
    }
}

fn watch(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

/// Takes a connection from our own user only, and never waits long for it.
fn greet(stream: UnixStream) -> Option<Connection> {
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    // Seen from O, the supervisor's user is 0, as we are.
    if peer.uid != rustix::process::geteuid() {
        return None;
    }
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.set_write_timeout(Some(Duration::from_secs(1))).ok()?;
    Some(Connection::new(stream))
}
