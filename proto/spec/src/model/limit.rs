//! What a workspace may use.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Everything that the workspace keeps on disk. Default 20000 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Size>,
    /// Processes and threads. Default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 4194304))]
    pub pids: Option<u64>,
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

/// Limits with every dimension known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveLimit {
    pub cpu_millicores: u64,
    pub memory_mib: u64,
    pub storage_mib: u64,
    pub pids: u64,
}

impl EffectiveLimit {
    /// What a workspace gets when nobody says anything.
    pub const DEFAULT: Self = Self { cpu_millicores: 2000, memory_mib: 6000, storage_mib: 20000, pids: 4096 };

    pub fn memory_bytes(&self) -> u64 {
        self.memory_mib.saturating_mul(1 << 20)
    }

    pub fn storage_bytes(&self) -> u64 {
        self.storage_mib.saturating_mul(1 << 20)
    }
}

impl Limit {
    /// Every dimension; those that are unset from [`EffectiveLimit::DEFAULT`]. A resolved spec has none unset.
    pub fn effective(&self) -> EffectiveLimit {
        let usual = EffectiveLimit::DEFAULT;
        EffectiveLimit {
            cpu_millicores: self.cpu.map_or(usual.cpu_millicores, |cpu| cpu.millicores),
            memory_mib: self.memory.map_or(usual.memory_mib, |size| size.megabytes),
            storage_mib: self.storage.map_or(usual.storage_mib, |size| size.megabytes),
            pids: self.pids.unwrap_or(usual.pids),
        }
    }

    /// This, dimension by dimension, else the other.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.or(other.cpu),
            memory: self.memory.or(other.memory),
            storage: self.storage.or(other.storage),
            pids: self.pids.or(other.pids),
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
        Self {
            cpu: lower(self.cpu, cap.cpu, |cpu| cpu.millicores),
            memory: lower(self.memory, cap.memory, |size| size.megabytes),
            storage: lower(self.storage, cap.storage, |size| size.megabytes),
            pids: lower(self.pids, cap.pids, |pids| *pids),
        }
    }
}

impl From<EffectiveLimit> for Limit {
    fn from(limit: EffectiveLimit) -> Self {
        Self {
            cpu: Some(Cpu { millicores: limit.cpu_millicores }),
            memory: Some(Size { megabytes: limit.memory_mib }),
            storage: Some(Size { megabytes: limit.storage_mib }),
            pids: Some(limit.pids),
        }
    }
}
