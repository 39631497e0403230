//! What every workspace of the node shares.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    id_ranges::IdRanges, images::Images, phases::Ring, runtime::SandboxRuntime, store::Store,
    timeouts::Timeouts, volumes::Volumes,
};

/// Where things lie on disk.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// What persists.
    pub state: PathBuf,
    /// What is gone at reboot.
    pub run: PathBuf,
}

impl Dirs {
    /// Everything of one workspace that persists.
    pub fn workspace(&self, uid: &str) -> PathBuf {
        self.state.join("workspaces").join(uid)
    }

    /// The workspace's storage.
    pub fn volume(&self, uid: &str) -> PathBuf {
        self.workspace(uid).join("volume")
    }

    /// The log of its runs.
    pub fn log(&self, uid: &str) -> PathBuf {
        self.workspace(uid).join("log")
    }

    /// The sockets of its run.
    pub fn sandbox(&self, uid: &str) -> PathBuf {
        self.run.join("ws").join(uid)
    }

    /// The node's volumes.
    pub fn volumes(&self) -> PathBuf {
        self.state.join("volumes")
    }

    /// Where the broker takes registrations.
    pub fn broker_socket(&self) -> PathBuf {
        self.run.join("broker.sock")
    }
}

/// What a sandbox gets from the node.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// The agent's static binary.
    pub agent: PathBuf,
    /// The broker's registration socket.
    pub broker_socket: PathBuf,
    /// Ports of the node's loopback that sandboxes may reach.
    pub host_ports: Vec<u16>,
    /// What workspaces may reach that do not say.
    pub egress: cordium_egress::DefaultAction,
    /// Networks that no workspace reaches.
    pub protected_networks: Vec<String>,
}

impl SandboxSettings {
    /// What a workspace whose spec says this may reach on this node.
    pub fn policy(&self, egress: &cordium_spec::Egress) -> cordium_egress::Policy {
        egress.policy(self.egress, self.protected_networks.clone())
    }
}

/// The node.
pub struct Context {
    /// The node's name.
    pub name: String,
    /// Where things lie.
    pub dirs: Dirs,
    /// Records and journal.
    pub store: Arc<Store>,
    /// The newest phases.
    pub ring: Arc<Ring>,
    /// Where images come from.
    pub images: Arc<dyn Images>,
    /// What makes sandboxes.
    pub runtime: Arc<dyn SandboxRuntime>,
    /// What outlives workspaces.
    pub volumes: Volumes,
    /// Who runs with which ids.
    pub ids: IdRanges,
    /// Bounds.
    pub timeouts: Timeouts,
    /// What sandboxes get.
    pub sandbox: SandboxSettings,
    /// Cancelled when the supervisor is asked to end.
    pub shutdown: CancellationToken,
    /// The owners of workspaces and their helpers.
    pub tasks: TaskTracker,
}

impl Context {
    /// Makes a directory and those above it, for the supervisor's user only.
    pub fn make_dir(path: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
}
