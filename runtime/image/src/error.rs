//! Errors of the store: one variant per failed step. They are `Clone`, because several starts may wait for
//! one download and each of them is told.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("image reference {reference:?} is not valid: {reason}")]
    Reference { reference: String, reason: String },
    #[error("image store: {action} {}: {source}", path.display())]
    Store { action: &'static str, path: PathBuf, source: Arc<io::Error> },
    #[error("image store {} is in use by another process: stop that one, or use another state directory", path.display())]
    Locked { path: PathBuf },
    #[error("image store: {} is damaged: {reason}; remove the image and pull it again", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "registry {registry} answered {status} for {image}: set credentials in the workspace's image.registry.authentication, in the registries configuration or in ~/.docker/config.json"
    )]
    Unauthorized { registry: String, image: String, status: u16 },
    #[error("registry {registry} has no {image}: check the name and the tag")]
    NotFound { registry: String, image: String },
    #[error("{action} of {image} from registry {registry} failed: {reason}")]
    Registry { image: String, registry: String, action: &'static str, reason: String },
    #[error("{action} of {image} from registry {registry} got no complete answer within {seconds} s")]
    RegistryTimeout { image: String, registry: String, action: &'static str, seconds: u64 },
    #[error("pull of {image} did not end within {seconds} s")]
    PullTimeout { image: String, seconds: u64 },
    #[error("{what} of {image} is not usable: {reason}")]
    Document { image: String, what: &'static str, reason: String },
    #[error("{image} has no image for {wanted}; it has: {available}")]
    Platform { image: String, wanted: String, available: String },
    #[error("{what} of {image} has digest {actual}, but {expected} was asked for")]
    Digest { image: String, what: &'static str, expected: String, actual: String },
    #[error("layer {layer} of {image}: {source}")]
    Layer { image: String, layer: String, source: LayerError },
    #[error("{image}: {what} is beyond the limit of {limit}")]
    Limit { image: String, what: String, limit: u64 },
    #[error("{image} needs {need} bytes and more in {}, which has {free} free: prune images or free space", path.display())]
    Space { image: String, path: PathBuf, need: u64, free: u64 },
    #[error("{image}: reading {}: {reason}", path.display())]
    Local { image: String, path: PathBuf, reason: String },
    #[error("connection to registry {registry} cannot be set up: {reason}")]
    Client { registry: String, reason: String },
    #[error("image {reference} is not in the store; `cordium image list` shows what is")]
    NotStored { reference: String },
    #[error("image {reference} is in use by {users} workspace(s): stop them first")]
    InUse { reference: String, users: usize },
    #[error("removing {}: {source}", path.display())]
    Remove { path: PathBuf, source: LayerError },
    #[error("pull of {image} ended without a result; see the log")]
    Lost { image: String },
}

/// What went wrong with one layer, or with the helper process that works on a tree.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerError {
    #[error("download from {from} failed: {reason}")]
    Download { from: String, reason: String },
    #[error("download from {from}: nothing came for {seconds} s")]
    Silent { from: String, seconds: u64 },
    #[error("download ended after {got} of {expected} bytes")]
    Truncated { got: u64, expected: u64 },
    #[error("the source sent more than the {expected} bytes that the manifest declares")]
    TooLong { expected: u64 },
    #[error("content has digest {actual}, but the manifest declares {expected}")]
    Digest { expected: String, actual: String },
    #[error("unpacked content has diff id {actual}, but the image configuration declares {expected}")]
    DiffId { expected: String, actual: String },
    #[error("entry {entry:?}: {reason}")]
    Entry { entry: String, reason: String },
    #[error("{what} is beyond the limit of {limit} (at entry {entry:?})")]
    Limit { what: String, limit: u64, entry: String },
    #[error("no space left on the device (at {entry:?}): prune images or free space")]
    NoSpace { entry: String },
    #[error("{operation} {entry:?}: {reason}")]
    Io { operation: String, entry: String, reason: String },
    #[error("the stream is not a usable layer: {reason}")]
    Stream { reason: String },
    #[error("the confined helper {step}: {reason}")]
    Helper { step: &'static str, reason: String },
    #[error("{action} {path}: {reason}")]
    Store { action: &'static str, path: String, reason: String },
    #[error("not done within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("the fetch ended without a result")]
    Lost,
}

/// How a caller should treat an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidInput,
    NotFound,
    Unauthorized,
    Unavailable,
    Exhausted,
    InUse,
    Internal,
}

impl ImageError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Reference { .. } | Self::Document { .. } | Self::Digest { .. } | Self::Local { .. } => {
                ErrorKind::InvalidInput
            }
            Self::NotFound { .. } | Self::Platform { .. } | Self::NotStored { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Registry { .. }
            | Self::RegistryTimeout { .. }
            | Self::PullTimeout { .. }
            | Self::Client { .. } => ErrorKind::Unavailable,
            Self::Limit { .. } | Self::Space { .. } => ErrorKind::Exhausted,
            Self::InUse { .. } => ErrorKind::InUse,
            Self::Layer { source, .. } | Self::Remove { source, .. } => source.kind(),
            Self::Store { .. } | Self::Locked { .. } | Self::Damaged { .. } | Self::Lost { .. } => {
                ErrorKind::Internal
            }
        }
    }

    pub(crate) fn store(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Store { action, path: path.into(), source: Arc::new(source) }
    }
}

impl LayerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Download { .. } | Self::Silent { .. } | Self::Timeout { .. } => ErrorKind::Unavailable,
            Self::Truncated { .. }
            | Self::TooLong { .. }
            | Self::Digest { .. }
            | Self::DiffId { .. }
            | Self::Entry { .. }
            | Self::Stream { .. } => ErrorKind::InvalidInput,
            Self::Limit { .. } | Self::NoSpace { .. } => ErrorKind::Exhausted,
            Self::Io { .. } | Self::Helper { .. } | Self::Store { .. } | Self::Lost => ErrorKind::Internal,
        }
    }
}
