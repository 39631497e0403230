//! The top of the schema: Workspace and Template.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AdditionalRepository, ImageSource, Limit, Repository, Runtime, is_default};

/// One isolated environment: its image, its repositories, its limits and what runs in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkspaceSpec {
    /// What the root file system is made of. Unset means the Template's image, then the node's base image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// Cloned to /workspace/repo before the tasks run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Cloned beside the primary repository. Appended to the Template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub additional_repositories: Vec<AdditionalRepository>,
    /// Ports that the workspace offers, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub applications: Vec<Application>,
    /// Each dimension that is unset comes from the Template, then the Space, then the node.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Limit,
    /// Values for `${{ vars.NAME }}`. They override the Template's and are overridden by those given at start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub vars: Vec<Var>,
    /// The storage is removed when the workspace stops.
    #[serde(skip_serializing_if = "is_default")]
    pub is_ephemeral: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: Runtime,
}

/// What several Workspaces have in common. A Workspace's own fields override it; lists are appended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TemplateSpec {
    /// What the root file system is made of, unless the Workspace says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: Runtime,
    /// Cloned to /workspace/repo, unless the Workspace names another repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub additional_repositories: Vec<AdditionalRepository>,
    /// For each dimension that the Workspace leaves unset.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Limit,
    /// The git provider whose credentials clones use. Not supported yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub git_provider: Option<String>,
    /// Values for `${{ vars.NAME }}`, overridden by those of the Workspace and those given at start.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub vars: Vec<Var>,
}

/// A TCP port that the workspace serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Application {
    /// Unique in the Workspace: lower-case letters, digits and '-', at most 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub display_name: String,
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The one that is meant when none is named. At most one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_default: bool,
}

/// A variable. Its value may itself use `${{ vars.OTHER }}`; a cycle is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Var {
    /// Letters, digits, '_' and '-', not beginning with a digit or '-', at most 64 characters.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_-]*$"))]
    pub name: String,
    #[schemars(length(max = 5000))]
    pub value: String,
}
