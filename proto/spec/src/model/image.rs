//! Where a root file system comes from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SecretRef, is_default};

/// Exactly one source. `dockerfile`, `git` and `repository` are checked but not built yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ImageSource {
    /// An image that exists already.
    Registry(RegistryImage),
    /// Built from one Dockerfile without a context. Not supported yet.
    Dockerfile(DockerfileImage),
    /// Built from a git repository. Not supported yet.
    Git(GitImage),
    /// Built from the workspace's primary repository. Not supported yet.
    Repository(RepositoryImage),
}

impl ImageSource {
    /// The name of the field that holds it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry(_) => "registry",
            Self::Dockerfile(_) => "dockerfile",
            Self::Git(_) => "git",
            Self::Repository(_) => "repository",
        }
    }
}

/// An image from a registry, an OCI layout directory or an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryImage {
    /// A reference such as `registry.example.org/team/base:12`, or `oci:DIR[:TAG]` for an OCI layout, or
    /// `docker-archive:FILE`; DIR and FILE are absolute paths on the node.
    #[schemars(length(min = 1, max = 256))]
    pub url: String,
    /// Credentials for the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<RegistryAuthentication>,
}

/// A registry's user name and password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegistryAuthentication {
    #[schemars(length(min = 1, max = 256))]
    pub username: String,
    pub password: SecretRef,
}

/// A Dockerfile, written here or fetched. Exactly one of `inline` and `url`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum DockerfileImage {
    /// The text itself. Variables are not replaced in it.
    #[serde(rename = "inline")]
    Inline(#[schemars(length(min = 1, max = 5000))] String),
    /// Where to fetch it: https or http.
    #[serde(rename = "url")]
    Url(#[schemars(length(min = 1, max = 256))] String),
}

/// A Dockerfile in a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitImage {
    /// https or http.
    #[schemars(length(min = 1, max = 256))]
    pub url: String,
    /// A branch, tag or commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub checkout: Option<String>,
    /// The Dockerfile's path in the repository. Unset means `Dockerfile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub dockerfile: Option<String>,
    /// The directory in the repository that COPY reads from. Unset means its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub context: Option<String>,
}

/// How to build from the primary repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RepositoryImage {
    /// By its devcontainer.json.
    #[serde(rename = "devcontainer")]
    Devcontainer(DevcontainerBuild),
    /// By its Dockerfile.
    #[serde(rename = "dockerfile")]
    Dockerfile(RepositoryDockerfile),
}

/// A devcontainer.json in the primary repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DevcontainerBuild {
    /// The directory that holds devcontainer.json. Unset means `.devcontainer`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(length(min = 1, max = 256))]
    pub dir_path: Option<String>,
}

/// A Dockerfile in the primary repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RepositoryDockerfile {
    /// Unset means `Dockerfile`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(length(min = 1, max = 256))]
    pub path: Option<String>,
    /// The directory that COPY reads from. Unset means the repository's root.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(length(min = 1, max = 256))]
    pub context: Option<String>,
}
