//! Commands that run at fixed moments of a workspace's life.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeyValue, Timeout, is_default};

/// A command for the workspace user's shell. Tasks of one type run one after another, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// For logs and failures. Unset means `task-N`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub name: String,
    /// Read by the shell with `-c`.
    #[schemars(length(min = 1, max = 5000))]
    pub run: String,
    /// When it runs.
    #[serde(rename = "type")]
    pub task_type: TaskType,
    /// Added to the workspace's environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env_vars: Vec<KeyValue>,
    /// An absolute path. Unset means the user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub working_dir: Option<String>,
    /// Started and not waited for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_background: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_failure: OnFailure,
    #[serde(default, skip_serializing_if = "is_default")]
    pub run_as_root: bool,
    /// After it the task is ended and has failed. Unset means the budget of its type only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
}

/// When a task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TaskType {
    /// Once, in the first run on this storage.
    OnCreate,
    /// In every run.
    PostStart,
    /// When the workspace is stopped.
    PreStop,
}

/// What a failed task does to the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OnFailure {
    /// As ON_FAILURE_CONTINUE.
    #[default]
    OnFailureUnset,
    /// The run fails and the workspace stops.
    OnFailureAbort,
    /// Logged; the next task runs.
    OnFailureContinue,
}
