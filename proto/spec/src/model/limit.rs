//! What a workspace may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// Limits. A dimension that is unset comes from the Template, then the Space, then the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limit {
    /// Processor time. Default 2000 millicores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory. Default 6000 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Swap beyond memory. Default 0: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Swap>,
    /// Everything that the workspace keeps on disk. Default 20000 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Size>,
    /// Files and directories that the workspace makes. Default 64 for each MiB of storage, and 16384 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 1_000_000_000))]
    pub inodes: Option<u64>,
    /// Processes and threads. Default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 4194304))]
    pub pids: Option<u64>,
    /// The disk. Default weight 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// Open files of one process. Default: as many as the node gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 256, max = 1048576))]
    pub open_files: Option<u64>,
    /// What may be watched for changes. Default: half of what the node gives its user.
    #[serde(skip_serializing_if = "is_default")]
    pub inotify: Inotify,
    /// User namespaces, which nested containers and browsers make. Default: a quarter of what the node gives its user.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub user_namespaces: Option<u64>,
}

/// An amount of processor time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cpu {
    /// Thousandths of a core: 1500 is one core and a half.
    #[schemars(range(min = 10, max = 1000000))]
    pub millicores: u64,
}

/// An amount of memory or storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Size {
    /// MiB (1,048,576 bytes each), whatever the name says.
    #[schemars(range(min = 16, max = 10000000))]
    pub megabytes: u64,
}

/// An amount of swap, beyond memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Swap {
    /// MiB; 0 means that nothing is swapped out.
    #[schemars(range(min = 0, max = 10000000))]
    pub megabytes: u64,
}

/// The share of a busy disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Io {
    /// In proportion to other workspaces, whose usual weight is 100.
    #[schemars(range(min = 1, max = 10000))]
    pub weight: u64,
}

/// Kernel objects that watch files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Inotify {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000000))]
    pub instances: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000000))]
    pub watches: Option<u64>,
}

/// Limits with every dimension known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveLimit {
    pub cpu_millicores: u64,
    pub memory_mib: u64,
    pub swap_mib: u64,
    pub storage_mib: u64,
    pub inodes: u64,
    pub pids: u64,
    pub io_weight: u64,
    /// 0 means: what the node gives. Likewise below.
    pub open_files: u64,
    pub inotify_instances: u64,
    pub inotify_watches: u64,
    pub user_namespaces: u64,
}

impl EffectiveLimit {
    /// What a workspace gets when nobody says anything.
    pub const DEFAULT: Self = Self {
        cpu_millicores: 2000,
        memory_mib: 6000,
        swap_mib: 0,
        storage_mib: 20000,
        inodes: inodes_for(20000),
        pids: 4096,
        io_weight: 100,
        open_files: 0,
        inotify_instances: 0,
        inotify_watches: 0,
        user_namespaces: 0,
    };

    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib.saturating_mul(1 << 20)
    }

    pub fn storage_bytes(&self) -> u64 {
        self.storage_mib.saturating_mul(1 << 20)
    }
}

/// As many as a file system of that size is usually made with.
const fn inodes_for(storage_mib: u64) -> u64 {
    let inodes = storage_mib.saturating_mul(64);
    if inodes < 16384 { 16384 } else { inodes }
}

impl Limit {
    /// Every dimension; those that are unset from [`EffectiveLimit::DEFAULT`].
    pub fn effective(&self) -> EffectiveLimit {
        let usual = EffectiveLimit::DEFAULT;
        let storage_mib = self.storage.map_or(usual.storage_mib, |size| size.megabytes);
        EffectiveLimit {
            cpu_millicores: self.cpu.map_or(usual.cpu_millicores, |cpu| cpu.millicores),
            memory_mib: self.memory.map_or(usual.memory_mib, |size| size.megabytes),
            swap_mib: self.swap.map_or(usual.swap_mib, |swap| swap.megabytes),
            storage_mib,
            inodes: self.inodes.unwrap_or(inodes_for(storage_mib)),
            pids: self.pids.unwrap_or(usual.pids),
            io_weight: self.io.map_or(usual.io_weight, |io| io.weight),
            open_files: self.open_files.unwrap_or(usual.open_files),
            inotify_instances: self.inotify.instances.unwrap_or(usual.inotify_instances),
            inotify_watches: self.inotify.watches.unwrap_or(usual.inotify_watches),
            user_namespaces: self.user_namespaces.unwrap_or(usual.user_namespaces),
        }
    }

    /// This, dimension by dimension, else the other.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            swap: self.swap.or(other.swap),
            storage: self.storage.or(other.storage),
            inodes: self.inodes.or(other.inodes),
            pids: self.pids.or(other.pids),
            io: self.io.or(other.io),
            open_files: self.open_files.or(other.open_files),
            inotify: Inotify {
                instances: self.inotify.instances.or(other.inotify.instances),
                watches: self.inotify.watches.or(other.inotify.watches),
            },
            user_namespaces: self.user_namespaces.or(other.user_namespaces),
        }
    }

    /// Not more than the cap in each dimension that the cap sets.
    pub(crate) fn capped(self, cap: Self) -> Self {
        fn lower<T>(value: Option<T>, cap: Option<T>, key: impl Fn(&T) -> u64) -> Option<T> {
            match (value, cap) {
                (Some(value), Some(cap)) => Some(if key(&value) <= key(&cap) { value } else { cap }),
                (value, cap) => value.or(cap),
            }
        }
        let number = |value, cap| lower(value, cap, |number: &u64| *number);
        Self {
            cpu: lower(self.cpu, cap.cpu, |cpu| cpu.millicores),
            memory: lower(self.memory, cap.memory, |size| size.megabytes),
            swap: lower(self.swap, cap.swap, |swap| swap.megabytes),
            storage: lower(self.storage, cap.storage, |size| size.megabytes),
            inodes: number(self.inodes, cap.inodes),
            pids: number(self.pids, cap.pids),
            io: lower(self.io, cap.io, |io| io.weight),
            open_files: number(self.open_files, cap.open_files),
            inotify: Inotify {
                instances: number(self.inotify.instances, cap.inotify.instances),
                watches: number(self.inotify.watches, cap.inotify.watches),
            },
            user_namespaces: number(self.user_namespaces, cap.user_namespaces),
        }
    }

    /// Where this asks for more than `cap` allows: the field, what was asked, what is allowed.
    pub(crate) fn beyond(&self, cap: &Self) -> Vec<(&'static str, u64, u64)> {
        let pairs = self.fields().into_iter().zip(cap.fields());
        pairs
            .filter_map(|((name, asked), (_, allowed))| Some((name, asked?, allowed?)))
            .filter(|(_, asked, allowed)| asked > allowed)
            .collect()
    }

    /// Every dimension by the name of its field.
    fn fields(&self) -> [(&'static str, Option<u64>); 11] {
        [
            ("cpu.millicores", self.cpu.map(|cpu| cpu.millicores)),
            ("memory.megabytes", self.memory.map(|size| size.megabytes)),
            ("swap.megabytes", self.swap.map(|swap| swap.megabytes)),
            ("storage.megabytes", self.storage.map(|size| size.megabytes)),
            ("inodes", self.inodes),
            ("pids", self.pids),
            ("io.weight", self.io.map(|io| io.weight)),
            ("openFiles", self.open_files),
            ("inotify.instances", self.inotify.instances),
            ("inotify.watches", self.inotify.watches),
            ("userNamespaces", self.user_namespaces),
        ]
    }
}

impl From<EffectiveLimit> for Limit {
    fn from(limit: EffectiveLimit) -> Self {
        let given = |number: u64| (number != 0).then_some(number);
        Self {
            cpu: Some(Cpu { millicores: limit.cpu_millicores }),
            memory: Some(Size { megabytes: limit.memory_mib }),
            swap: Some(Swap { megabytes: limit.swap_mib }),
            storage: Some(Size { megabytes: limit.storage_mib }),
            inodes: Some(limit.inodes),
            pids: Some(limit.pids),
            io: Some(Io { weight: limit.io_weight }),
            open_files: given(limit.open_files),
            inotify: Inotify {
                instances: given(limit.inotify_instances),
                watches: given(limit.inotify_watches),
            },
            user_namespaces: given(limit.user_namespaces),
        }
    }
}
