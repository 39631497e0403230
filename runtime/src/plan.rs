//! What the supervisor asks a keeper to build, as data.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{IdMap, cgroup::CgroupPlan};

/// The capabilities of the sandbox's root when the spec says nothing: what container engines give, plus
/// NET_ADMIN (its network namespace is its own) and SYS_ADMIN (nested containers mount and unshare). All of them
/// count only inside user namespace I.
pub const DEFAULT_CAPABILITIES: [&str; 16] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_ADMIN",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_ADMIN",
    "CAP_SYS_CHROOT",
];

/// The most layers that one rootfs may have.
pub const MAX_LAYERS: usize = 128;

/// Upper bounds for everything that runs in the sandbox together. 0 means unlimited, or what the node gives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub cpu_millicores: u64,
    pub memory_mib: u64,
    /// Beyond memory. Here 0 is none.
    pub swap_mib: u64,
    pub storage_mib: u64,
    pub inodes: u64,
    pub pids: u64,
    /// 1 to 10000; everybody else's is 100.
    pub io_weight: u64,
    /// Of one process.
    pub open_files: u64,
    pub inotify_instances: u64,
    pub inotify_watches: u64,
    pub user_namespaces: u64,
}

/// A directory or file of the node that appears in the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// It belongs to the sandbox's root, to whom it is given while it is still the supervisor's.
    #[serde(default)]
    pub owned: bool,
}

/// Where flows out of the sandbox go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkPlan {
    pub broker_socket: PathBuf,
    pub policy: cordium_egress::Policy,
    /// What is put on requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<cordium_broker::Credentials>,
    /// Servers that the broker logs in to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<cordium_broker::Services>,
    /// Ports of the node's loopback that the sandbox reaches as `host.cordium.internal`.
    pub host_ports: Vec<u16>,
}

/// Everything a keeper needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxPlan {
    /// The workspace's uid; also the name of its cgroup.
    pub id: String,
    /// The run's id, for accounts of it.
    #[serde(default)]
    pub run: String,
    pub hostname: String,
    /// One unpacked directory per image layer, bottom first.
    pub layers: Vec<PathBuf>,
    /// Where the contents of files are that the layers only refer to.
    #[serde(default)]
    pub layer_data: Option<PathBuf>,
    /// An existing directory of the supervisor's user that holds what persists.
    pub volume: PathBuf,
    /// An existing directory for the sockets of this run.
    pub run_dir: PathBuf,
    /// The static agent binary on the node.
    pub agent: PathBuf,
    /// `CAP_*` names: the bounding set of everything in the sandbox.
    pub capabilities: Vec<String>,
    pub limits: Limits,
    pub ids: IdMap,
    /// Unset where the node has no writable cgroup subtree.
    pub cgroup: Option<CgroupPlan>,
    pub read_only_root: bool,
    pub binds: Vec<Bind>,
    pub network: NetworkPlan,
    /// Added to the agent's environment.
    pub env: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("id {0:?} is not 1 to 63 letters, digits and dashes")]
    Id(String),
    #[error("image has {0} layers; allowed: 1 to {MAX_LAYERS}")]
    Layers(usize),
    #[error("path {0:?} is not absolute and plain")]
    Path(PathBuf),
    #[error("unknown capability {0:?}")]
    Capability(String),
    #[error("mount target {0:?} is reserved")]
    ReservedTarget(PathBuf),
    #[error("mount target {0:?} is there twice")]
    DoubleTarget(PathBuf),
}

impl SandboxPlan {
    /// Refuses a plan that could reach outside what it names.
    pub fn check(&self) -> Result<(), PlanError> {
        let id_is_plain = self.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if self.id.is_empty() || self.id.len() > 63 || !id_is_plain {
            return Err(PlanError::Id(self.id.clone()));
        }
        if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            return Err(PlanError::Layers(self.layers.len()));
        }
        let own = [&self.volume, &self.run_dir, &self.agent];
        let binds = self.binds.iter().flat_map(|bind| [&bind.source, &bind.target]);
        if let Some(path) = own
            .into_iter()
            .chain(&self.layers)
            .chain(&self.layer_data)
            .chain(binds)
            .find(|path| !is_plain(path))
        {
            return Err(PlanError::Path(path.clone()));
        }
        let reserved = ["/", "/proc", "/sys", "/dev", "/run/cordium"];
        if let Some(bind) = self.binds.iter().find(|bind| {
            reserved.iter().any(|r| bind.target == Path::new(r))
                || ["/proc", "/sys", "/dev", "/run/cordium"].iter().any(|r| bind.target.starts_with(r))
        }) {
            return Err(PlanError::ReservedTarget(bind.target.clone()));
        }
        let mut seen = HashSet::new();
        if let Some(bind) = self.binds.iter().find(|bind| !seen.insert(&bind.target)) {
            return Err(PlanError::DoubleTarget(bind.target.clone()));
        }
        match self.capabilities.iter().find(|name| name.parse::<caps::Capability>().is_err()) {
            Some(name) => Err(PlanError::Capability(name.clone())),
            None => Ok(()),
        }
    }
}

fn is_plain(path: &Path) -> bool {
    use std::path::Component::{Normal, RootDir};
    path.is_absolute() && path.components().all(|part| matches!(part, RootDir | Normal(_)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::IdRange;

    pub(crate) fn plan() -> SandboxPlan {
        let range = IdRange { host_start: 100_000, count: 65_536 };
        SandboxPlan {
            id: "0198c0de-0000-7000-8000-000000000001".into(),
            run: "0198c0de-0000-7000-8000-000000000002".into(),
            hostname: "demo".into(),
            layers: vec!["/images/a/fs".into(), "/images/b/fs".into()],
            layer_data: None,
            volume: "/state/volume".into(),
            run_dir: "/run/ws".into(),
            agent: "/opt/cordium-agent".into(),
            capabilities: DEFAULT_CAPABILITIES.map(String::from).to_vec(),
            limits: Limits { cpu_millicores: 1500, memory_mib: 1024, pids: 512, ..Limits::default() },
            ids: IdMap { uid: range, gid: range },
            cgroup: None,
            read_only_root: false,
            binds: vec![],
            network: NetworkPlan {
                broker_socket: "/run/broker.sock".into(),
                policy: cordium_egress::Policy::default(),
                credentials: None,
                services: None,
                host_ports: vec![],
            },
            env: vec![],
        }
    }

    fn bind(target: &str) -> Bind {
        Bind { source: "/x".into(), target: target.into(), read_only: false, owned: false }
    }

    #[test]
    fn hostile_plans_are_refused() {
        type Spoil = fn(&mut SandboxPlan);
        let cases: [(Spoil, PlanError); 10] = [
            (|p| p.id = "../x".into(), PlanError::Id("../x".into())),
            (|p| p.id = String::new(), PlanError::Id(String::new())),
            (|p| p.layers.clear(), PlanError::Layers(0)),
            (|p| p.volume = "/a/../b".into(), PlanError::Path("/a/../b".into())),
            (|p| p.agent = "agent".into(), PlanError::Path("agent".into())),
            (|p| p.capabilities = vec!["CAP_ROOT".into()], PlanError::Capability("CAP_ROOT".into())),
            (|p| p.binds = vec![bind("/proc/sys")], PlanError::ReservedTarget("/proc/sys".into())),
            (|p| p.binds = vec![bind("/")], PlanError::ReservedTarget("/".into())),
            (|p| p.binds = vec![bind("/a/../proc")], PlanError::Path("/a/../proc".into())),
            (|p| p.binds = vec![bind("/a"), bind("/b"), bind("/a")], PlanError::DoubleTarget("/a".into())),
        ];
        assert_eq!(plan().check(), Ok(()));
        for (spoil, expected) in cases {
            let mut plan = plan();
            spoil(&mut plan);
            assert_eq!(plan.check(), Err(expected));
        }
    }
}
