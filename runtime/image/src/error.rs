//! Errors of the store: one variant per failed step. They are `Clone`, because several starts may wait for
//! one download and each of them is told.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use crate::config::IdMap;

/// Each reads as one line that names the image once, says what is wrong, and where it can what to do.
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
        "image {image}: the registry {registry} answered {status}: set credentials in the workspace's image.registry.authentication, in the registries configuration or in ~/.docker/config.json"
    )]
    Unauthorized { registry: String, image: String, status: u16 },
    #[error("image {image}: the registry {registry} does not have it: check the name and the tag")]
    NotFound { registry: String, image: String },
    #[error(
        "image {image}: {action} from {registry} failed: {reason}; check that the registry works, then try again"
    )]
    Registry { image: String, registry: String, action: &'static str, reason: String },
    #[error(
        "image {image}: {action} from {registry} got no complete answer within {seconds} s, {attempts} times; check that the registry works, then try again"
    )]
    RegistryTimeout { image: String, registry: String, action: &'static str, seconds: u64, attempts: u32 },
    #[error("image {image}: the pull did not end within {seconds} s; try again: finished layers are kept")]
    PullTimeout { image: String, seconds: u64 },
    #[error("image {image}: {what} is not usable: {reason}")]
    Document { image: String, what: &'static str, reason: String },
    #[error("image {image} is not for this machine, which is {wanted}; it is for: {available}")]
    Platform { image: String, wanted: String, available: String },
    #[error("image {image}: {what} has digest {actual}, but {expected} was asked for; push the image again")]
    Digest { image: String, what: &'static str, expected: String, actual: String },
    #[error("image {image}: layer {}: {source}", short(layer))]
    Layer { image: String, layer: String, source: LayerError },
    #[error(
        "image {image}: its {what} is beyond the limit of {limit}; use a smaller image, or raise imageLimits in the node's configuration"
    )]
    Limit { image: String, what: String, limit: u64 },
    #[error("image {image} needs {need} bytes and more in {}, which has {free} free: prune images or free space", path.display())]
    Space { image: String, path: PathBuf, need: u64, free: u64 },
    #[error("image {image}: reading {}: {reason}", path.display())]
    Local { image: String, path: PathBuf, reason: String },
    #[error("connection to registry {registry} cannot be set up: {reason}")]
    Client { registry: String, reason: String },
    #[error("image {reference} is not in the store; `cordium image list` shows what is")]
    NotStored { reference: String },
    #[error("image {reference} is in use by {users} workspace(s): stop them first")]
    InUse { reference: String, users: usize },
    #[error("removing {}: {source}", path.display())]
    Remove { path: PathBuf, source: LayerError },
    #[error("giving {} to {range}: {source}", path.display())]
    Give { path: PathBuf, range: IdMap, source: LayerError },
    #[error("the ids {range} are not of a range that this store was given")]
    Range { range: IdMap },
    #[error("image {image}: giving its layers to {range}: {source}")]
    View { image: String, range: IdMap, source: LayerError },
    #[error("image {image}: the pull ended without a result; see the log")]
    Lost { image: String },
}

/// What went wrong with one layer, or with the helper process that works on a tree.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerError {
    #[error("download from {from} failed: {reason}; check that it works, then try again")]
    Download { from: String, reason: String },
    #[error(
        "download from {from}: nothing came for {seconds} s, {attempts} times; check that it works, then try again"
    )]
    Silent { from: String, seconds: u64, attempts: u32 },
    #[error("download ended after {got} of {expected} bytes; push the image again")]
    Truncated { got: u64, expected: u64 },
    #[error(
        "the source sent more than the {expected} bytes that the manifest declares; push the image again"
    )]
    TooLong { expected: u64 },
    #[error("content has digest {actual}, but the manifest declares {expected}; push the image again")]
    Digest { expected: String, actual: String },
    #[error(
        "unpacked content has diff id {actual}, but the image configuration declares {expected}; push the image again"
    )]
    DiffId { expected: String, actual: String },
    #[error("entry {entry:?}: {reason}; build the image without it")]
    Entry { entry: String, reason: String },
    #[error(
        "{what} is beyond the limit of {limit}{}; use a smaller image, or raise imageLimits in the node's configuration",
        at(entry)
    )]
    Limit { what: String, limit: u64, entry: String },
    #[error("no space left on the device{}: prune images or free space", at(entry))]
    NoSpace { entry: String },
    #[error("{operation} {entry:?}: {reason}")]
    Io { operation: String, entry: String, reason: String },
    #[error("the stream is not a usable layer: {reason}; push the image again")]
    Stream { reason: String },
    #[error("the confined helper {step}: {reason}")]
    Helper { step: &'static str, reason: String },
    #[error("{action} {path}: {reason}")]
    Store { action: &'static str, path: String, reason: String },
    #[error("not done within {seconds} s; try again, or raise imageTimeouts in the node's configuration")]
    Timeout { seconds: u64 },
    #[error("the fetch ended without a result")]
    Lost,
}

/// Enough of a digest to know it by.
fn short(digest: &str) -> &str {
    let hex = digest.rsplit(':').next().unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

fn at(entry: &str) -> String {
    if entry.is_empty() { String::new() } else { format!(" (at entry {entry:?})") }
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
            Self::Layer { source, .. }
            | Self::View { source, .. }
            | Self::Remove { source, .. }
            | Self::Give { source, .. } => source.kind(),
            Self::Store { source, .. } if is_full(source) => ErrorKind::Exhausted,
            Self::Store { .. }
            | Self::Locked { .. }
            | Self::Damaged { .. }
            | Self::Range { .. }
            | Self::Lost { .. } => ErrorKind::Internal,
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

/// The disk, or the quota of whom it belongs to.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_named_once_and_a_next_step_given() {
        let image = || "127.0.0.1:5000/a/b:c".to_owned();
        let registry = || "127.0.0.1:5000".to_owned();
        let layer = |source| ImageError::Layer {
            image: image(),
            layer: format!("sha256:{}", "ab".repeat(32)),
            source,
        };
        let reason = || "it answered 500".to_owned();
        let errors = [
            ImageError::NotFound { registry: registry(), image: image() },
            ImageError::Registry {
                image: image(),
                registry: registry(),
                action: "reading the manifest",
                reason: reason(),
            },
            layer(LayerError::Download { from: registry(), reason: reason() }),
            layer(LayerError::Limit { what: "number of entries".into(), limit: 5, entry: "e6".into() }),
            layer(LayerError::Entry { entry: "../x".into(), reason: "its name leads out".into() }),
        ];
        for error in errors {
            let text = error.to_string();
            assert_eq!(text.matches("/a/b:c").count(), 1, "{text}");
            assert!(text.contains(": check") || text.contains("; "), "no next step: {text}");
            assert!(!text.contains('\n') && text.len() < 300, "{text}");
        }
    }

    #[test]
    fn a_full_quota_is_a_full_disk() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert_eq!(ImageError::store("writing", "/x", kind.into()).kind(), ErrorKind::Exhausted);
        }
        assert_eq!(
            ImageError::store("writing", "/x", io::ErrorKind::NotFound.into()).kind(),
            ErrorKind::Internal
        );
    }
}
