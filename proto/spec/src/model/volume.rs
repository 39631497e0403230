//! Storage that outlives workspaces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Size;

/// A directory that outlives the Workspaces which mount it. It lies on one node, and they run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VolumeSpec {
    /// How much it is meant to hold. It may grow later. Default 10000 MiB.
    pub size: Size,
    /// How many Workspaces may mount it at a time. It cannot be changed.
    pub access_mode: AccessMode,
}

impl Default for VolumeSpec {
    fn default() -> Self {
        Self { size: Size { megabytes: 10_000 }, access_mode: AccessMode::default() }
    }
}

/// How many Workspaces may mount a Volume at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessMode {
    /// One running Workspace at a time.
    #[default]
    AccessModeExclusive,
    /// Any number of them.
    AccessModeShared,
}
