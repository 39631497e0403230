//! What the Workspaces of one Space have in common, whatever their Template.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Capabilities, DefaultAction, EnvVar, Limit, Task, is_default};

/// A group of Workspaces with its Templates, Secrets and limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpaceSpec {
    #[serde(skip_serializing_if = "is_default")]
    pub limit: SpaceLimit,
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: SpaceRuntime,
    #[serde(skip_serializing_if = "is_default")]
    pub authorization: Authorization,
}

/// Limits for each Workspace of the Space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpaceLimit {
    /// For each dimension that Workspace and Template leave unset.
    #[serde(skip_serializing_if = "is_default")]
    pub default_limit: Limit,
    /// What no Workspace may exceed.
    #[serde(skip_serializing_if = "is_default")]
    pub max_limit: Limit,
}

/// Added to every Workspace of the Space.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpaceRuntime {
    /// Overridden by the Template's and the Workspace's of the same key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env_vars: Vec<EnvVar>,
    /// After the Template's and the Workspace's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub tasks: Vec<Task>,
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    #[serde(skip_serializing_if = "is_default")]
    pub network: SpaceNetwork,
}

/// The network of every Workspace of the Space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpaceNetwork {
    #[serde(skip_serializing_if = "is_default")]
    pub egress: SpaceEgress,
}

/// Connections that leave Workspaces of the Space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpaceEgress {
    /// For Workspaces that do not say, nor their Template. DENY in a Space that is created without it.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: DefaultAction,
}

/// What people may do with the Space's Workspaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authorization {
    /// No SSH into the Space's Workspaces.
    #[serde(rename = "disableSSH", skip_serializing_if = "is_default")]
    pub disable_ssh: bool,
}
