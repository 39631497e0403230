//! Where images come from. Every source resolves a name to digests, and streams layers.

mod archive;
mod client;
mod layout;
mod registry;
mod retry;
mod sink;
mod token;

use oci_spec::image::ImageConfiguration;

pub(crate) use sink::LayerSink;

use crate::config::StoreConfig;
use crate::digest::Digest;
use crate::error::{ImageError, LayerError};
use crate::manifest::{self, Blob};
use crate::reference::ImageRef;
use crate::registries::Credentials;

pub(crate) enum Source {
    Registry(Box<registry::RegistrySource>),
    Layout(layout::LayoutSource),
    Archive(archive::ArchiveSource),
}

/// An image whose every part is known by digest.
pub(crate) struct Resolved {
    pub digest: Digest,
    pub config_digest: Digest,
    pub config_bytes: Vec<u8>,
    /// Bottom first.
    pub layers: Vec<Layer>,
}

#[derive(Clone)]
pub(crate) struct Layer {
    pub diff_id: Digest,
    pub blob: Blob,
}

impl Source {
    pub(crate) fn new(image: &ImageRef, auth: Option<Credentials>, config: &StoreConfig) -> Self {
        match image {
            ImageRef::Registry(reference) => {
                Self::Registry(Box::new(registry::RegistrySource::new(reference.clone(), auth, config)))
            }
            ImageRef::Layout { dir, tag } => {
                Self::Layout(layout::LayoutSource::new(image.canonical(), dir.clone(), tag.clone(), config))
            }
            ImageRef::Archive { file } => {
                Self::Archive(archive::ArchiveSource::new(image.canonical(), file.clone(), config))
            }
        }
    }

    pub(crate) async fn resolve(&self) -> Result<Resolved, ImageError> {
        match self {
            Self::Registry(source) => source.resolve().await,
            Self::Layout(source) => source.resolve().await,
            Self::Archive(source) => source.resolve().await,
        }
    }

    /// Streams a layer as it is stored.
    pub(crate) async fn copy(&self, blob: &Blob, sink: &mut LayerSink) -> Result<(), LayerError> {
        match self {
            Self::Registry(source) => source.copy(blob, sink).await,
            Self::Layout(source) => source.copy(blob, sink).await,
            Self::Archive(source) => source.copy(blob, sink).await,
        }
    }
}

/// Joins a manifest's layers with the diff ids of its configuration.
fn assemble(
    image: &str,
    digest: Digest,
    config_bytes: Vec<u8>,
    blobs: Vec<Blob>,
) -> Result<Resolved, ImageError> {
    let (_, diff_ids): (ImageConfiguration, _) =
        manifest::parse_config(&config_bytes, blobs.len()).map_err(|reason| ImageError::Document {
            image: image.to_owned(),
            what: "the configuration",
            reason,
        })?;
    let layers = diff_ids.into_iter().zip(blobs).map(|(diff_id, blob)| Layer { diff_id, blob }).collect();
    Ok(Resolved { digest, config_digest: Digest::of(&config_bytes), config_bytes, layers })
}
