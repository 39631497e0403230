//! Where containers are kept between the calls of a command line: one directory each below the state directory.

use std::{
    collections::HashMap,
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use libcontainer::{
    container::{Container, ContainerStatus},
    error::LibcontainerError,
};
use nix::{sys::signal::Signal, unistd::Pid};
use oci_spec::runtime::LinuxResources;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::Serialize;

use super::{
    error::{ContainerError, chain},
    identity, late_hooks,
};

/// The containers below one state directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The state of a container as the OCI runtime specification has it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    pub status: String,
    /// 0 once the container has stopped.
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
}

/// A container that exists.
pub struct OpenContainer {
    pub(super) inner: Container,
}

impl Store {
    /// Opens the state directory, and makes it if need be, for the caller's eyes only.
    pub fn open(root: &Path) -> Result<Self, ContainerError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
        let root = made
            .and_then(|()| fs::canonicalize(root))
            .map_err(|source| ContainerError::StateDir { path: root.to_owned(), source })?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn dir(&self, id: &str) -> Result<PathBuf, ContainerError> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-.".contains(&b));
        if id.is_empty() || id.len() > 128 || !plain || id == "." || id == ".." {
            return Err(ContainerError::Id(id.to_owned()));
        }
        Ok(self.root.join(id))
    }

    /// Loads a container with its status as it is now.
    pub fn load(&self, id: &str) -> Result<OpenContainer, ContainerError> {
        let dir = self.dir(id)?;
        if !dir.exists() {
            return Err(ContainerError::Unknown(id.to_owned()));
        }
        let fail = |source: LibcontainerError| ContainerError::State { id: id.to_owned(), source };
        let mut inner = Container::load(dir.clone()).map_err(fail)?;
        if let Some(pid) = inner.pid() {
            let same = identity::is_recorded(&dir, Pid::from_raw(pid.as_raw()));
            if !same.map_err(|e| fail(LibcontainerError::OtherIO(e)))? {
                inner.set_status(ContainerStatus::Stopped);
            }
        }
        Ok(OpenContainer { inner })
    }

    /// Every container, in the order of their names; what cannot be read is left out.
    pub fn list(&self) -> Result<Vec<State>, ContainerError> {
        let fail = |source: io::Error| ContainerError::StateDir { path: self.root.clone(), source };
        let mut states = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Ok(container) = self.load(name) {
                states.push(container.state());
            }
        }
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }
}

impl OpenContainer {
    pub fn state(&self) -> State {
        let state = &self.inner.state;
        let stopped = state.status == ContainerStatus::Stopped;
        State {
            oci_version: state.oci_version.clone(),
            id: state.id.clone(),
            status: state.status.to_string().to_lowercase(),
            pid: if stopped { 0 } else { state.pid.unwrap_or(0) },
            bundle: state.bundle.clone(),
            annotations: state.annotations.clone().unwrap_or_default(),
        }
    }

    pub(super) fn id(&self) -> String {
        self.inner.id().to_owned()
    }

    pub(super) fn need(
        &self,
        action: &'static str,
        wanted: &'static str,
        allowed: &[ContainerStatus],
    ) -> Result<Pid, ContainerError> {
        let pid = self.inner.pid().filter(|_| allowed.contains(&self.inner.status()));
        pid.map(|pid| Pid::from_raw(pid.as_raw())).ok_or_else(|| ContainerError::Status {
            id: self.id(),
            status: self.inner.status().to_string().to_lowercase(),
            action,
            wanted,
        })
    }

    /// A handle on init, which stays on it when it ends and its number is given to another process.
    pub(super) fn open_init(&self, pid: Pid) -> io::Result<OwnedFd> {
        let handle = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(rustix::io::Errno::SRCH)?;
        let handle = pidfd_open(handle, PidfdFlags::empty())?;
        if identity::is_recorded(&self.inner.root, pid)? {
            return Ok(handle);
        }
        Err(rustix::io::Errno::SRCH.into())
    }

    pub(super) fn act(
        &self,
        action: &'static str,
    ) -> impl Fn(&dyn std::error::Error) -> ContainerError + use<> {
        let id = self.id();
        move |error| ContainerError::Act { id: id.clone(), action, reason: chain(error) }
    }

    /// Lets a created container run its program.
    pub fn start(&mut self) -> Result<(), ContainerError> {
        self.need("start", "created", &[ContainerStatus::Created])?;
        let id = self.id();
        self.inner.start().map_err(|e| ContainerError::Start { id, reason: chain(&e) })?;
        let (dir, state) = (&self.inner.root, &self.inner.state);
        late_hooks::run("poststart", late_hooks::kept(dir).poststart().as_ref(), state, Some(dir));
        Ok(())
    }

    /// Sends a signal to the container's init, or to every process in it.
    pub fn kill(&mut self, signal: Signal, all: bool) -> Result<(), ContainerError> {
        use ContainerStatus::{Created, Paused, Running};
        if all {
            return self.kill_all(signal);
        }
        let pid = self.need("kill", "created, running or paused", &[Created, Running, Paused])?;
        let paused = self.inner.status() == Paused;
        match self.open_init(pid).and_then(|init| send(&init, signal)) {
            Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                let signal = signal.to_string();
                return Err(ContainerError::Kill { id: self.id(), signal, source: e });
            }
            _ => {}
        }
        // A frozen process dies only when it thaws.
        if paused && signal == Signal::SIGKILL { self.resume() } else { Ok(()) }
    }

    pub fn pause(&mut self) -> Result<(), ContainerError> {
        self.need("pause", "running", &[ContainerStatus::Running])?;
        let fail = self.act("pause");
        self.inner.pause().map_err(|e| fail(&e))
    }

    pub fn resume(&mut self) -> Result<(), ContainerError> {
        self.need("resume", "paused", &[ContainerStatus::Paused])?;
        let fail = self.act("resume");
        self.inner.resume().map_err(|e| fail(&e))
    }

    /// Puts other limits in force; what `resources` does not name stays.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), ContainerError> {
        use ContainerStatus::{Created, Paused, Running};
        self.need("update", "created, running or paused", &[Created, Running, Paused])?;
        let fail = self.act("update");
        let options =
            ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        self.cgroups()?.apply(&options).map_err(|e| fail(&e))
    }

    /// Removes a stopped container; with `force` one that runs is killed first.
    pub fn delete(&mut self, force: bool) -> Result<(), ContainerError> {
        let fail = self.act("delete");
        if !force {
            self.need_stopped()?;
        }
        let hooks = late_hooks::kept(&self.inner.root);
        // Without a pid namespace of its own the end of its init is not the end of the others. One that is only half made
        // may have no cgroup yet.
        if self.cgroups_path().is_ok() {
            self.kill_all(Signal::SIGKILL)?;
        }
        // Whether it may be deleted was decided here, by a status that knows whether init is still itself.
        self.inner.delete(true).map_err(|e| fail(&e))?;
        late_hooks::run("poststop", hooks.poststop().as_ref(), &self.inner.state, None);
        Ok(())
    }

    fn need_stopped(&self) -> Result<(), ContainerError> {
        use ContainerStatus::{Created, Stopped};
        if matches!(self.inner.status(), Created | Stopped) {
            return Ok(());
        }
        let status = self.inner.status().to_string().to_lowercase();
        Err(ContainerError::Status {
            id: self.id(),
            status,
            action: "delete",
            wanted: "stopped (or use --force)",
        })
    }

    /// Where its cgroup is in every hierarchy that it has one in.
    pub(super) fn cgroups_path(&self) -> Result<PathBuf, ContainerError> {
        let fail = self.act("finding the cgroup");
        Ok(self.inner.spec().map_err(|e| fail(&e))?.cgroup_path)
    }

    pub(super) fn cgroups(&self) -> Result<libcgroups::common::AnyCgroupManager, ContainerError> {
        let fail = self.act("finding the cgroup");
        let cgroup_path = self.cgroups_path()?;
        let config = CgroupConfig { cgroup_path, systemd_cgroup: false, container_name: self.id() };
        create_cgroup_manager(config).map_err(|e| fail(&e))
    }
}

fn send(init: &OwnedFd, signal: Signal) -> io::Result<()> {
    let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(rustix::io::Errno::INVAL)?;
    Ok(pidfd_send_signal(init, signal)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for id in ["", ".", "..", "a/b", "a b", "ü", &"x".repeat(129)] {
            assert!(matches!(store.load(id), Err(ContainerError::Id(_))), "{id:?}");
        }
        assert!(matches!(store.load("a_b+c-1.2"), Err(ContainerError::Unknown(_))));
        assert!(store.list().unwrap().is_empty());
    }
}
