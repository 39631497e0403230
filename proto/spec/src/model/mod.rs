//! The types of the schema, named as their fields are in YAML and JSON. Doc comments become the descriptions of the
//! published JSON Schema.

mod image;
mod limit;
mod network;
mod repository;
mod runtime;
mod service;
mod space;
mod task;
mod timeout;
mod volume;
mod workspace;

pub use image::{
    DevcontainerBuild, DockerfileImage, GitImage, ImageSource, RegistryAuthentication, RegistryImage,
    RepositoryDockerfile, RepositoryImage,
};
pub use limit::{Cpu, EffectiveLimit, Inotify, Io, Limit, Size, Swap};
pub use network::{Credential, DefaultAction, Egress, EgressRule, Inject, Network, Protocol, RuleAction};
pub use repository::{
    AdditionalRepository, CloneOptions, HttpAuthentication, Repository, RepositoryAuthentication, SecretRef,
};
pub use runtime::{
    Capabilities, Devcontainers, EnvVar, Feature, Filesystem, KeyValue, ObjectRef, RunTimeout, Runtime,
    TimeoutMode, VolumeMount,
};
pub use service::{Local, Service, ServiceProtocol, TlsMode, Upstream};
pub use space::{Authorization, SpaceEgress, SpaceLimit, SpaceNetwork, SpaceRuntime, SpaceSpec};
pub use task::{OnFailure, Task, TaskType};
pub use timeout::Timeout;
pub use volume::{AccessMode, VolumeSpec};
pub use workspace::{Application, TemplateSpec, Var, WorkspaceSpec};

/// For `skip_serializing_if`: what is unset is left out of the canonical JSON.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
