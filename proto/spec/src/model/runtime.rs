//! How a workspace runs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Network, Task, is_default};

/// Environment, tasks, main process, network, capabilities and mounts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Runtime {
    /// For tasks, commands and terminals. A later one of the same key wins; the Workspace's come after the
    /// Template's, and those after the Space's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env_vars: Vec<EnvVar>,
    /// The Template's first, then the Workspace's, then the Space's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub tasks: Vec<Task>,
    /// Do not put an init before the image's main process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_init: Option<bool>,
    /// Replaces the image's command: words as a shell would split them, or a JSON array of strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub cmd: Option<String>,
    /// Replaces the image's entrypoint: words as a shell would split them, or a JSON array of strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub entrypoint: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub devcontainers: Devcontainers,
    #[serde(skip_serializing_if = "is_default")]
    pub network: Network,
    #[serde(skip_serializing_if = "is_default")]
    pub filesystem: Filesystem,
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Capabilities,
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: RunTimeout,
    /// Stop when all tasks are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_stop: Option<bool>,
    /// Volumes of the Space. The Template's first, then the Workspace's; no two may overlap.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub volume_mounts: Vec<VolumeMount>,
}

/// One variable of the environment, from exactly one of `value` and `fromSecret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("oneOf" = [{"required": ["value"]}, {"required": ["fromSecret"]}]))]
pub struct EnvVar {
    /// Printable ASCII without '='.
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[!-<>-~]+$"))]
    pub key: String,
    /// The value itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: Option<String>,
    /// The name of a Secret of the Space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub from_secret: Option<String>,
}

/// A key with a plain value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyValue {
    #[schemars(length(min = 1, max = 64))]
    pub key: String,
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// Development container features. Not supported yet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Devcontainers {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub features: Vec<Feature>,
}

/// A feature and its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// Such as `ghcr.io/devcontainers/features/go:1`.
    #[schemars(length(min = 1, max = 256))]
    pub reference: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub options: Vec<KeyValue>,
}

/// The root file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filesystem {
    /// / cannot be written; /tmp, /var/tmp, /workspace and the user's home still can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
}

/// Linux capabilities, with or without CAP_. What is in `drop` stays dropped, whoever adds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Capabilities {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = "^(CAP_)?[A-Z_]+$")))]
    pub add: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(regex(pattern = "^(CAP_)?[A-Z_]+$")))]
    pub drop: Vec<String>,
}

/// Whether an idle workspace is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RunTimeout {
    #[serde(skip_serializing_if = "is_default")]
    pub mode: TimeoutMode,
}

/// Whether an idle workspace is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TimeoutMode {
    /// As the Template says, else DEFAULT.
    #[default]
    ModeUnset,
    /// After the time that the scheduler is set to.
    Default,
    /// Never, where that is allowed.
    Disabled,
}

/// A Volume and where it appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    pub volume_ref: ObjectRef,
    /// An absolute path that is not one of the system's and does not overlap another mount.
    #[schemars(length(min = 2, max = 256), regex(pattern = "^/"))]
    pub mount_path: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
}

/// Another resource, by its name or its uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub uid: String,
}
