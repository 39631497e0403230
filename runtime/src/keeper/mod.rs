//! The keeper: the restricted outer container, one process per running workspace.
//!
//! ```text
//!  supervisor                     keeper                                     libcontainer's children
//!      │── plan ────────────────────▶│ cgroups, unshare(user, mount, net)
//!      │◀────────────── need maps ───│
//!      │ newuidmap, newgidmap        │
//!      │── mapped ──────────────────▶│ root of O
//!      │                             │ user namespace I, sandbox netns, veth, nft ─▶ broker
//!      │                             │ volume, overlay, binds on a private tmpfs
//!      │                             │── create ───────────────────────────▶ init in I: mounts, pivot, waits
//!      │                             │ rules in force?  start ─────────────▶ seccomp, execve(agent)
//!      │◀──────────────── running ───│ serves keeper.sock; reaps init
//!      │── kill ────────────────────▶│ cgroup.kill / SIGKILL of PID 1
//!      │◀───────────────── exited ───│ ends
//! ```
//! It has one thread from beginning to end: libcontainer forks with a raw `clone3`. It outlives the supervisor; a new
//! one finds it by its socket. The sandbox dies with it.

mod agent_log;
mod inner;
mod namespace_limits;
mod namespaces;
mod outer;
mod protocol;
mod serve;
mod user_limits;

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::ExitCode,
    time::Instant,
};

pub(crate) use protocol::{FromKeeper, PROTOCOL, ToKeeper};

use crate::{
    SandboxPlan,
    cgroup::{HierarchyKind, Leaf},
    gateway, sys,
};
use protocol::{Connection, ProtocolError};

/// The socket in the run directory that a supervisor connects to.
pub(crate) const KEEPER_SOCKET: &str = "keeper.sock";
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
        Ok(sandbox) => match serve::serve(sandbox, supervisor) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(error = %KeeperError::Serve(error), "the keeper ends");
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

fn run(supervisor: &mut Connection, agent_slot: OwnedFd) -> Result<serve::Running, KeeperError> {
    let plan = match supervisor.receive()? {
        ToKeeper::Start(plan) => plan,
        other => return Err(ProtocolError::Unexpected(format!("{other:?}")).into()),
    };
    plan.check()?;
    let mut clock = Clock::start();
    let mut warnings = enter_cgroups(&plan)?;
    clock.mark("cgroups");
    namespaces::make_outer(supervisor)?;
    clock.mark("outer namespaces");
    let pending = gateway::load_rules()?;
    let paths = outer::Paths::open(&plan)?;
    outer::prepare_volume(&paths)?;
    let sandbox = namespaces::make_inner()?;
    clock.mark("inner namespaces");
    gateway::link(sandbox.network.as_fd())?;
    let listeners = gateway::listen()?;
    clock.mark("gateway");
    let root = outer::mount_root(&plan, &paths)?;
    clock.mark("overlay and binds");
    let registration = cordium_broker::Registration {
        workspace: plan.id.clone(),
        gateway_v4: cordium_broker::GATEWAY_V4,
        policy: plan.network.policy,
        host_ports: plan.network.host_ports.clone(),
    };
    let egress = serve::Egress { socket: paths.broker_socket(), registration, listeners };
    let registered = egress.register()?;
    clock.mark("broker");
    let created = inner::create(&plan, &root, &sandbox, &paths.agent_listener, agent_slot)?;
    clock.mark("container create");
    pending.finish()?;
    clock.mark("gateway rules");
    let init = created.start()?;
    clock.mark("container start");
    warnings.dedup();
    supervisor.send(&FromKeeper::Running {
        protocol: PROTOCOL,
        id: plan.id.clone(),
        warnings: warnings.clone(),
        steps: clock.steps,
    })?;
    let (listener, broker_dir) = paths.keep();
    Ok(serve::Running { plan, warnings, init, egress, registered, listener, _broker_dir: broker_dir })
}

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

/// Makes the cgroups, puts the limits in force and moves in: on v1 into `box`, where the container will be born, because
/// a v1 hierarchy is entered by a process itself or not at all. Each move costs a grace period of the kernel. Without a subtree the sandbox runs, with warnings.
fn enter_cgroups(plan: &SandboxPlan) -> Result<Vec<String>, KeeperError> {
    let mut warnings = Vec::new();
    if plan.limits.storage_mib > 0 {
        warnings.push(crate::node::NO_STORAGE_LIMITS.to_owned());
    }
    let Some(cgroup) = &plan.cgroup else {
        warnings.push("cpu, memory and pids limits are not enforced: no delegated cgroup subtree".to_owned());
        return Ok(warnings);
    };
    cgroup.create()?;
    warnings.extend(cgroup.apply(&plan.limits));
    if !cgroup.unified().is_some_and(|unified| unified.controllers().iter().any(|name| name == "memory")) {
        warnings.push("cgroup controllers are not visible inside: this node's are on cgroup v1".to_owned());
    }
    let leaf = |kind: &HierarchyKind| match kind {
        HierarchyKind::V1(_) => Leaf::Box,
        HierarchyKind::V2(_) => Leaf::Keeper,
    };
    for refused in cgroup.enter(leaf)? {
        warnings.push(format!(
            "cgroup {} could not be entered: the supervisor was started outside the delegated subtree",
            refused.display()
        ));
    }
    Ok(warnings)
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
