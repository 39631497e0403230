//! Images as a workspace's start sees them: a trait, so that the state machine can be tested without a registry.

use std::{any::Any, path::PathBuf, sync::Arc};

use cordium_proto::v1::{Image, PruneImagesResponse, pull_progress::Step};
use cordium_runtime::IdMap;
use futures::future::BoxFuture;
use oci_spec::image::ImageConfiguration;

use crate::request_error::RequestError;

/// User name and password for a registry.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// The password or token.
    pub password: String,
}

/// How a pull is getting on.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The layer, or the whole image when empty.
    pub layer: String,
    /// What is being done with it.
    pub step: Step,
    /// Bytes so far.
    pub done: u64,
    /// Bytes altogether; 0 while unknown.
    pub total: u64,
}

/// Where a pull tells how it is getting on.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// An unpacked image that stays on disk while this value lives.
pub struct RunImage {
    /// As it was asked for.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
    /// Environment, entrypoint, user and so on.
    pub config: ImageConfiguration,
    /// Keeps the layers from being removed.
    pub lease: Box<dyn Any + Send + Sync>,
}

/// The layers of an image as one range of ids sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// One directory per layer, bottom first.
    pub dirs: Vec<PathBuf>,
    /// Where the contents of files are that these only refer to.
    pub data: Option<PathBuf>,
}

/// Why an image cannot be had: words for people, the whole chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ImageFailure(pub String);

/// Where images come from.
pub trait Images: Send + Sync + 'static {
    /// Pulls the image if it is not there. Dropping the future ends the pull, unless others wait for it too.
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        login: Option<Login>,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<Arc<RunImage>, ImageFailure>>;

    /// The layers of an image for these ids; made at the first time.
    fn layers<'a>(
        &'a self,
        image: &'a RunImage,
        ids: &'a IdMap,
    ) -> BoxFuture<'a, Result<Layers, ImageFailure>>;

    /// Holds the layers of an image that is here, whose run goes on; pulls nothing. May block briefly.
    fn hold(&self, digest: &str) -> Result<Arc<RunImage>, ImageFailure>;

    /// What is here.
    fn list(&self) -> Result<Vec<Image>, RequestError>;
    /// Asks the registry again, even if the image is here.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        login: Option<Login>,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<Image, RequestError>>;
    /// Removes an image; says how many bytes that freed.
    fn remove<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<u64, RequestError>>;
    /// Removes what nothing uses.
    fn prune(&self, all: bool) -> BoxFuture<'_, Result<PruneImagesResponse, RequestError>>;
}
