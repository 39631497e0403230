//! The keeper: the restricted outer container, one process per running workspace.
//!
//! ```text
//!  supervisor                     keeper                                     libcontainer's children
//!      │── prepare ─────────────────▶│ cgroups, unshare(user, mount, net)
//!      │◀────────────── need maps ───│
//!      │ newuidmap, newgidmap        │
//!      │── mapped ──────────────────▶│ root of O
//!      │                             │ user namespace I, sandbox netns, veth, nft, listeners
//!      │◀────────────────── ready ───│ waits: for long when it was made ahead
//!      │── plan ────────────────────▶│ from here on it is one workspace's: limits
//!      │                             │ volume, overlay, binds on a private tmpfs; listeners ─▶ broker
//!      │                             │── create ───────────────────────────▶ init in I: mounts, pivot, waits
//!      │                             │ rules in force?  start ─────────────▶ seccomp, execve(agent)
//!      │◀──────────────── running ───│ serves keeper.sock; reaps init
//!      │── kill ────────────────────▶│ cgroup.kill / SIGKILL of PID 1
//!      │◀───────────────── exited ───│ ends
//! ```
//! It has one thread from beginning to end: libcontainer forks with a raw `clone3`. It outlives the supervisor; a new
//! one finds it by its socket. The sandbox dies with it.

mod agent_log;
mod birthplace;
mod confine;
mod inner;
mod masked;
mod namespace_limits;
mod namespaces;
mod oom;
mod outer;
mod prepared;
mod protocol;
mod serve;
mod storage;
mod sweep;
mod targets;
mod user_limits;
mod warden;

use std::{
    os::fd::{AsRawFd, OwnedFd},
    process::ExitCode,
    time::{Instant, SystemTime},
};

pub(crate) use protocol::{FromKeeper, PROTOCOL, ToKeeper};

use crate::{
    NetworkPlan, SandboxPlan,
    cgroup::{CgroupPlan, Stay},
    sys,
};
use prepared::Prepared;
use protocol::{Connection, ProtocolError};

/// The socket in the run directory that a supervisor connects to.
pub(crate) const KEEPER_SOCKET: &str = "keeper.sock";
/// What the keeper says, in the run directory.
pub(crate) const KEEPER_LOG: &str = "keeper.log";
/// The agent's socket in the run directory; its listener is the agent's descriptor 3.
pub(crate) const AGENT_SOCKET: &str = "agent.sock";

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("talking to the supervisor: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("the plan is refused: {0}")]
    Plan(#[from] crate::PlanError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Namespaces(#[from] namespaces::NamespaceError),
    #[error(transparent)]
    Outer(#[from] outer::OuterError),
    #[error(transparent)]
    Gateway(#[from] crate::gateway::GatewayError),
    #[error("registering with the egress broker: {0}")]
    Broker(#[from] cordium_broker::RegisterError),
    #[error(transparent)]
    Inner(#[from] inner::InnerError),
    #[error("giving up what only the start needed: {0}")]
    Confine(#[from] confine::ConfineError),
    #[error("starting what watches memory and storage: {0}")]
    Warden(std::io::Error),
    #[error("watching the sandbox: {0}")]
    Serve(std::io::Error),
}

/// The entry of `cordium-supervisor keeper`. Standard input is the supervisor's end of a socket pair.
///
/// Must be called before the process has a second thread.
pub fn keeper_main() -> ExitCode {
    // The keeper's own mounts may hide the directory it was started in, and libcontainer goes back to it.
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::error!(%error, "going to /");
        return ExitCode::FAILURE;
    }
    let taken = outer::take_stdin().and_then(|channel| {
        let slot = sys::only_stdio(channel.as_raw_fd(), inner::AGENT_FD)?;
        Ok((channel, slot))
    });
    let (channel, agent_slot) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            tracing::error!(%error, "a keeper is started by the supervisor only");
            return ExitCode::from(2);
        }
    };
    let mut supervisor = Connection::new(channel);
    match run(&mut supervisor, agent_slot) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(sandbox)) => match confine_and_serve(sandbox, supervisor) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "the keeper ends");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            let message = message(&error);
            tracing::error!(%message, "the sandbox could not be made");
            // The supervisor may be gone; then nobody needs to know.
            let _ = supervisor.send(&FromKeeper::Failed { message });
            ExitCode::FAILURE
        }
    }
}

/// A keeper that cannot be confined ends, and its sandbox with it.
fn confine_and_serve(sandbox: serve::Running, supervisor: Connection) -> Result<(), KeeperError> {
    confine::confine(sandbox.plan.cgroup.as_ref())?;
    serve::serve(sandbox, supervisor).map_err(KeeperError::Serve)
}

/// Does what the supervisor asks for first: a sandbox to be served, or a sweep after one.
fn run(supervisor: &mut Connection, agent_slot: OwnedFd) -> Result<Option<serve::Running>, KeeperError> {
    match supervisor.receive()? {
        ToKeeper::Prepare { cgroup } => prepare(supervisor, cgroup.as_ref(), agent_slot),
        ToKeeper::Sweep(cgroup) => sweep::sweep(supervisor, &cgroup).map(|()| None),
        other => Err(ProtocolError::Unexpected(format!("{other:?}")).into()),
    }
}

/// Makes what needs no plan, and waits for one. Nothing when the supervisor has ended without a use for this keeper.
fn prepare(
    supervisor: &mut Connection,
    cgroup: Option<&CgroupPlan>,
    agent_slot: OwnedFd,
) -> Result<Option<serve::Running>, KeeperError> {
    let mut clock = Clock::start();
    let prepared = Prepared::make(supervisor, cgroup, &mut clock)?;
    let received = supervisor.send(&FromKeeper::Ready).and_then(|()| supervisor.receive());
    match received {
        Ok(ToKeeper::Start(plan)) => {
            clock.mark("wait for a plan");
            start(supervisor, prepared, plan, agent_slot, clock).map(Some)
        }
        Ok(other) => {
            prepared.undo();
            Err(ProtocolError::Unexpected(format!("{other:?}")).into())
        }
        Err(error) => {
            prepared.undo();
            match error {
                ProtocolError::Closed | ProtocolError::Send(_) | ProtocolError::Receive(_) => Ok(None),
                error => Err(error.into()),
            }
        }
    }
}

/// Makes the sandbox of one workspace.
fn start(
    supervisor: &mut Connection,
    prepared: Prepared,
    plan: SandboxPlan,
    agent_slot: OwnedFd,
    mut clock: Clock,
) -> Result<serve::Running, KeeperError> {
    plan.check()?;
    outer::log_to(&plan.run_dir)?;
    let Prepared { stay, sandbox, rules, listeners, mut warnings } = prepared;
    warnings.extend(limit(&plan, stay.as_ref()));
    clock.mark("limits");
    outer::make_private()?;
    let paths = outer::Paths::open(&plan)?;
    outer::prepare_volume(&paths)?;
    let root = outer::mount_root(&plan, &paths)?;
    clock.mark("overlay and binds");
    let registration = cordium_broker::Registration {
        workspace: plan.id.clone(),
        run: plan.run.clone(),
        gateway_v4: cordium_broker::GATEWAY_V4,
        host_ports: plan.network.host_ports.clone(),
    };
    let NetworkPlan { policy, credentials, services, .. } = plan.network.clone();
    let socket = paths.broker_socket();
    let egress = serve::Egress { socket, registration, policy, credentials, services, listeners };
    let registered = egress.register()?;
    clock.mark("broker");
    let born_inside = stay.as_ref().is_some_and(Stay::is_in_unified);
    let created = inner::create(&plan, &root, &sandbox, &paths.agent_listener, agent_slot, born_inside)?;
    clock.mark("container create");
    if !rules.finish()? {
        warnings.push(NO_UDP.to_owned());
    }
    clock.mark("gateway rules");
    let began = SystemTime::now();
    let init = created.start()?;
    clock.mark("container start");
    warnings.dedup();
    supervisor.send(&FromKeeper::Running {
        protocol: PROTOCOL,
        id: plan.id.clone(),
        cgroup: plan.cgroup.clone(),
        warnings: warnings.clone(),
        steps: clock.steps,
    })?;
    // Nobody waits for this, but nothing is done for the sandbox before.
    if let Some(stay) = stay {
        stay.end()?;
    }
    let (listener, broker_dir, volume) = paths.keep();
    let warden = warden::Warden::start(&plan, volume, began).map_err(KeeperError::Warden)?;
    Ok(serve::Running { plan, warnings, init, egress, registered, listener, warden, _broker_dir: broker_dir })
}

const NO_UDP: &str =
    "rules for UDP are not in force, all UDP but DNS is refused: the kernel has no nft_tproxy";

/// How long each step of the start took, in microseconds, for the account that the supervisor logs.
struct Clock {
    last: Instant,
    steps: Vec<(String, u64)>,
}

impl Clock {
    fn start() -> Self {
        Self { last: Instant::now(), steps: Vec::new() }
    }

    fn mark(&mut self, step: &str) {
        let now = Instant::now();
        let micros = now.duration_since(self.last).as_micros();
        self.steps.push((step.to_owned(), u64::try_from(micros).unwrap_or(u64::MAX)));
        self.last = now;
    }
}

/// Puts the limits in force. What cannot be enforced is told in words.
fn limit(plan: &SandboxPlan, stay: Option<&Stay>) -> Vec<String> {
    let own_inotify = oom::inotify_instances(plan.cgroup.as_ref());
    let mut warnings = namespace_limits::apply_asked(&plan.limits, own_inotify);
    let files = crate::oci::nofile_given();
    if plan.limits.open_files > files {
        let asked = plan.limits.open_files;
        warnings.push(format!("open files limit: {asked} asked, {files} is all that the node gives"));
    }
    if plan.limits.storage_mib > 0 {
        warnings.push(crate::node::STORAGE_IS_WATCHED.to_owned());
    }
    let (Some(cgroup), Some(stay)) = (&plan.cgroup, stay) else {
        warnings.push("cpu and memory limits are not enforced: no delegated cgroup subtree".to_owned());
        warnings.push(crate::cgroup::NPROC_INSTEAD.to_owned());
        return warnings;
    };
    warnings.extend(cgroup.apply(&plan.limits, &plan.volume));
    if !cgroup.unified().is_some_and(|unified| unified.controllers().iter().any(|name| name == "memory")) {
        warnings.push("cgroup controllers are not visible inside: this node's are on cgroup v1".to_owned());
    }
    warnings.extend(stay.refused().iter().map(|refused| {
        format!(
            "cgroup {} could not be entered: the supervisor was started outside the delegated subtree",
            refused.display()
        )
    }));
    warnings
}

fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
