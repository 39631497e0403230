//! Images of an OCI layout directory.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use tokio::io::AsyncReadExt;

use super::sink::LayerSink;
use super::{Resolved, assemble};
use crate::config::{Limits, StoreConfig};
use crate::digest::Digest;
use crate::error::{ImageError, LayerError};
use crate::manifest::{self, Blob, Document};

const TAG: &str = "org.opencontainers.image.ref.name";

pub(crate) struct LayoutSource {
    image: String,
    dir: PathBuf,
    tag: Option<String>,
    limits: Limits,
}

impl LayoutSource {
    pub(crate) fn new(image: String, dir: PathBuf, tag: Option<String>, config: &StoreConfig) -> Self {
        Self { image, dir, tag, limits: config.limits.clone() }
    }

    pub(crate) async fn resolve(&self) -> Result<Resolved, ImageError> {
        let limit = self.limits.manifest_bytes;
        let index = self.read(&self.dir.join("index.json"), limit).await?;
        let Document::Index(entries) =
            manifest::parse(&index).map_err(|r| self.bad("the layout's index", r))?
        else {
            return Err(self.bad("the layout's index", "it is not an index".into()));
        };
        let tagged = match &self.tag {
            None => entries,
            Some(tag) => self.tagged(&entries, tag)?,
        };
        let mut entry = self.choose(&tagged)?.clone();
        for _ in 0..3 {
            let (digest, bytes) = self.verified(&entry, limit).await?;
            match manifest::parse(&bytes).map_err(|reason| self.bad("the manifest", reason))? {
                Document::Index(entries) => entry = self.choose(&entries)?.clone(),
                Document::Manifest(manifest) => {
                    let config =
                        self.content(&manifest.config, self.limits.config_bytes, "the configuration").await?;
                    return assemble(&self.image, digest, config, manifest.layers);
                }
            }
        }
        Err(self.bad("the layout's index", "indexes are nested too deeply".into()))
    }

    fn tagged(&self, entries: &[Descriptor], tag: &str) -> Result<Vec<Descriptor>, ImageError> {
        let name = |entry: &Descriptor| entry.annotations().as_ref().and_then(|a| a.get(TAG).cloned());
        let found: Vec<_> = entries.iter().filter(|e| name(e).as_deref() == Some(tag)).cloned().collect();
        if found.is_empty() {
            let names: Vec<String> = entries.iter().filter_map(name).take(20).collect();
            return Err(self
                .bad("the layout's index", format!("it has no tag {tag:?}; it has: {}", names.join(", "))));
        }
        Ok(found)
    }

    /// One entry is taken for what it is; of several, the one for this machine.
    fn choose<'a>(&self, entries: &'a [Descriptor]) -> Result<&'a Descriptor, ImageError> {
        if let [only] = entries {
            return Ok(only);
        }
        manifest::choose(entries).map_err(|available| ImageError::Platform {
            image: self.image.clone(),
            wanted: manifest::platform_name(),
            available,
        })
    }

    async fn verified(&self, entry: &Descriptor, limit: usize) -> Result<(Digest, Vec<u8>), ImageError> {
        let blob = manifest::blob(entry).map_err(|reason| self.bad("the layout's index", reason))?;
        let bytes = self.content(&blob, limit, "the manifest").await?;
        Ok((Digest::of(&bytes), bytes))
    }

    async fn content(&self, blob: &Blob, limit: usize, what: &'static str) -> Result<Vec<u8>, ImageError> {
        let Some(expected) = &blob.digest else { return Err(self.bad(what, "it has no digest".into())) };
        let bytes = self.read(&self.path(expected), limit).await?;
        let actual = Digest::of(&bytes);
        if actual != *expected {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            return Err(ImageError::Digest { image: self.image.clone(), what, expected, actual });
        }
        Ok(bytes)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    async fn read(&self, path: &Path, limit: usize) -> Result<Vec<u8>, ImageError> {
        let failed =
            |reason: String| ImageError::Local { image: self.image.clone(), path: path.to_owned(), reason };
        let file = open_regular(path).await.map_err(|e| failed(e.to_string()))?;
        let mut bytes = Vec::new();
        file.take(limit as u64 + 1).read_to_end(&mut bytes).await.map_err(|e| failed(e.to_string()))?;
        if bytes.len() > limit {
            return Err(failed(format!("it is longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn bad(&self, what: &'static str, reason: String) -> ImageError {
        ImageError::Document { image: self.image.clone(), what, reason }
    }

    pub(crate) async fn copy(&self, blob: &Blob, sink: &mut LayerSink) -> Result<(), LayerError> {
        let Some(digest) = &blob.digest else { return Err(LayerError::Lost) };
        copy_file(&self.path(digest), 0, u64::MAX, sink).await
    }
}

/// Opens a regular file; never waits for the other end of a pipe.
pub(crate) async fn open_regular(path: &Path) -> std::io::Result<tokio::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = tokio::fs::OpenOptions::from(options).open(path).await?;
    if file.metadata().await?.is_file() {
        Ok(file)
    } else {
        Err(std::io::Error::other("it is not a regular file"))
    }
}

/// Copies a part of a local file.
pub(crate) async fn copy_file(
    path: &Path,
    offset: u64,
    length: u64,
    sink: &mut LayerSink,
) -> Result<(), LayerError> {
    use tokio::io::AsyncSeekExt;
    let failed = |error: std::io::Error| LayerError::Download {
        from: path.display().to_string(),
        reason: error.to_string(),
    };
    let mut file = open_regular(path).await.map_err(failed)?;
    file.set_max_buf_size(512 << 10);
    file.seek(std::io::SeekFrom::Start(offset)).await.map_err(failed)?;
    let mut part = file.take(length);
    let mut buffer = vec![0; 512 << 10];
    loop {
        match part.read(&mut buffer).await.map_err(failed)? {
            0 => return Ok(()),
            count => sink.write(&buffer[..count]).await?,
        }
    }
}
