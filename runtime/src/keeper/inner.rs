//! The inner container through libcontainer: create, then start.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
};

use caps::Capability;
use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    error::LibcontainerError,
    syscall::syscall::SyscallType,
};
use nix::unistd::Pid;

use super::{
    birthplace::Birthplace,
    masked,
    namespaces::Inner,
    outer::{OuterError, Root, with_unified_cgroups},
};
use crate::{
    SandboxPlan,
    cgroup::Leaf,
    oci::{self, AgentExecutor, InnerPaths, SpecError},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum InnerError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("writing the OCI bundle {path}: {source}", path = path.display())]
    Bundle { path: PathBuf, source: io::Error },
    #[error("passing the agent its socket: {0}")]
    Socket(io::Error),
    #[error(transparent)]
    Outer(#[from] OuterError),
    #[error("creating the inner container: {0}")]
    Create(LibcontainerError),
    #[error(
        "creating the inner container: {0}; /proc has masks here, under which the kernel refuses a new one: show this \
         container a whole and writable procfs at another path, as docs/pod.md says"
    )]
    MaskedProc(LibcontainerError),
    #[error("starting the inner container: {0}")]
    Start(LibcontainerError),
    #[error("the inner container has no process")]
    NoProcess,
    #[error("opening the pidfd of the keeper or of the inner container's PID 1: {0}")]
    PidFd(io::Error),
}

/// A container whose init has done its mounts and waits.
pub(crate) struct Created {
    container: Container,
    log: OwnedFd,
}

/// PID 1 of the sandbox.
pub(crate) struct Init {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// What the agent writes to its standard error.
    pub(crate) log: OwnedFd,
}

/// The descriptor that the agent serves; libcontainer passes on the ones right after standard error.
pub(crate) const AGENT_FD: i32 = 3;

pub(crate) fn create(
    plan: &SandboxPlan,
    root: &Root,
    inner: &Inner,
    agent_listener: &UnixListener,
    mut agent_slot: OwnedFd,
    born_inside: bool,
) -> Result<Created, InnerError> {
    let spec = oci::build(plan, &paths(plan, root, inner))?;
    let config = root.bundle.join("config.json");
    let text = serde_json::to_vec(&spec)
        .map_err(|e| InnerError::Bundle { path: config.clone(), source: e.into() })?;
    fs::write(&config, text).map_err(|source| InnerError::Bundle { path: config, source })?;
    let sys_admin = plan.capabilities.iter().any(|name| name == "CAP_SYS_ADMIN");
    let drop = if sys_admin { vec![] } else { vec![Capability::CAP_SYS_ADMIN] };
    let keeper = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
        .map_err(|e| InnerError::PidFd(e.into()))?;
    let executor = AgentExecutor::new(oci::seccomp_filters(), drop, keeper);
    let (log, log_writer) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| InnerError::Socket(e.into()))?;
    let stdout = log_writer.try_clone().map_err(InnerError::Socket)?;
    rustix::io::dup2(agent_listener, &mut agent_slot).map_err(|e| InnerError::Socket(e.into()))?;
    let unified = plan.cgroup.as_ref().and_then(|cgroup| cgroup.unified_mount.as_deref());
    let cgroups_path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().clone());
    let created = with_unified_cgroups(unified, || {
        let birthplace = cgroups_path
            .filter(|_| born_inside)
            .map(|path| Birthplace::shield(&path, &root.bundle))
            .transpose()?;
        let created = ContainerBuilder::new(plan.id.clone(), SyscallType::default())
            .with_root_path(&root.state)
            .and_then(|builder| builder.with_executor(executor).with_preserved_fds(1).validate_id())
            .map(|builder| builder.with_stdout(stdout).with_stderr(log_writer))
            .and_then(|builder| builder.as_init(&root.bundle).with_systemd(false).with_detach(true).build());
        std::mem::drop(birthplace);
        created.map_err(failed)
    })??;
    Ok(Created { container: created, log })
}

impl Created {
    /// Lets init go on to the agent.
    pub(crate) fn start(mut self) -> Result<Init, InnerError> {
        let pid = self.container.pid().ok_or(InnerError::NoProcess)?.as_raw();
        let handle = rustix::process::Pid::from_raw(pid).ok_or(InnerError::NoProcess)?;
        let pidfd = rustix::process::pidfd_open(handle, rustix::process::PidfdFlags::empty())
            .map_err(|e| InnerError::PidFd(e.into()))?;
        self.container.start().map_err(InnerError::Start)?;
        Ok(Init { pid: Pid::from_raw(pid), pidfd, log: self.log })
    }
}

fn failed(error: LibcontainerError) -> InnerError {
    if masked::whole_procfs() { InnerError::Create(error) } else { InnerError::MaskedProc(error) }
}

fn paths(plan: &SandboxPlan, root: &Root, inner: &Inner) -> InnerPaths {
    let by_fd = |fd: &OwnedFd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()));
    let unified = plan.cgroup.as_ref().and_then(|cgroup| Some((cgroup, cgroup.unified()?)));
    let cgroups_path = unified.and_then(|(cgroup, hierarchy)| {
        let dir = cgroup.dir(hierarchy, Leaf::Box);
        Some(PathBuf::from("/").join(dir.strip_prefix(&hierarchy.mount).ok()?))
    });
    InnerPaths {
        rootfs: root.rootfs.clone(),
        user_namespace: by_fd(&inner.user),
        network_namespace: by_fd(&inner.network),
        binds: root.binds.clone(),
        cgroup_mount: cgroups_path.is_some(),
        // A cgroup that it cannot make. Of one that is there, cleaning up after a failure would end every process.
        cgroups_path: cgroups_path.unwrap_or_else(|| PathBuf::from("/").join(format!("cordium-{}", plan.id))),
        fresh_sysfs: masked::fresh_sysfs(),
    }
}
