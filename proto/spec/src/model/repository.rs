//! Git repositories that are cloned into the workspace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// Where the primary repository is cloned to.
pub(crate) const PRIMARY_PATH: &str = "/workspace/repo";
/// Where additional repositories are cloned to unless they say otherwise.
pub(crate) const ADDITIONAL_ROOT: &str = "/workspace/additional-repos";

/// A git repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Repository {
    /// https. http works too, for tests and networks of one's own: passwords then travel in the clear. A Workspace
    /// may leave it out to keep the Template's and change only the options; another url replaces the Template's
    /// repository altogether, so that its credentials are never sent elsewhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub clone_options: CloneOptions,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<RepositoryAuthentication>,
}

impl Repository {
    /// Where the primary repository is cloned to.
    pub const PATH: &'static str = PRIMARY_PATH;
}

/// How to clone. Without anything: depth 1, then the rest of the history in the background.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CloneOptions {
    /// Unset means the remote's default branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub branch: Option<String>,
    /// Commits of history. Effective with `disableLazyUnshallow`; 0 means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
    /// Fetch only that branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_branch: Option<bool>,
    /// Submodules with depth 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shallow_submodules: Option<bool>,
    /// A branch, tag or commit to check out after cloning.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub checkout: Option<String>,
    /// Do not fetch the rest of the history in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disable_lazy_unshallow: Option<bool>,
}

/// Credentials of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RepositoryAuthentication {
    pub http: HttpAuthentication,
}

/// A user name and a password or token. Never written to the repository's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpAuthentication {
    #[schemars(length(min = 1, max = 256))]
    pub username: String,
    pub password: SecretRef,
}

/// A value that is kept in a Secret of the Space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub from_secret: String,
}

/// A repository beside the primary one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdditionalRepository {
    /// Unique in the Workspace: lower-case letters, digits and '-', at most 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// Below /workspace; a relative path is taken from there. Unset means /workspace/additional-repos/NAME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub clone_path: Option<String>,
    pub repository: Repository,
}

impl AdditionalRepository {
    /// The absolute path that it is cloned to.
    pub fn path(&self) -> String {
        match self.clone_path.as_deref() {
            None => format!("{ADDITIONAL_ROOT}/{}", self.name),
            Some(path) if path.starts_with('/') => path.to_string(),
            Some(path) => format!("/workspace/{path}"),
        }
    }
}
