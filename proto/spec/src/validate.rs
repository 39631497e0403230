//! Every rule that the types alone do not hold.
//!
//! A spec is checked twice: as people wrote it ([`Stage::Draft`]), when a field may still hold a variable and its
//! syntax cannot be judged yet, and once merged and substituted ([`Stage::Resolved`]), when lists may be as long as
//! Template, Workspace and Space together.

mod at;
mod capability;
mod image;
mod limit;
mod mounts;
mod names;
mod network;
mod repository;
mod runtime;
mod service;
mod spec;
mod task;
mod text;
mod url;
mod volume;

pub(crate) use at::{At, Stage};
pub(crate) use capability::capability_name;
pub use names::{MAX_NAME, validate_name};
pub(crate) use spec::{metadata, run_vars};
pub use spec::{validate_resolved, validate_space, validate_template, validate_workspace};
pub(crate) use url::is_host_port;
pub use volume::validate_volume;

#[cfg(test)]
mod tests;
