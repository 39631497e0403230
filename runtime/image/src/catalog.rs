//! What the store knows: references, and one record per image. Records are small files, read when needed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageConfiguration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::config::{IdMap, ViewMethod};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layout::Layout;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Of the manifest; of the configuration where the source has no manifest.
    pub digest: Digest,
    pub config: Digest,
    /// Bottom first.
    pub layers: Vec<LayerRecord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub diff_id: Digest,
    /// As downloaded.
    pub size: u64,
}

/// `meta.json` of a published layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerMeta {
    pub diff_id: Digest,
    pub entries: u64,
    pub bytes: u64,
    /// The boot in which it was written: see `durability`.
    pub boot_id: String,
    pub skipped_devices: u64,
    /// Its root is opaque: nothing of the layers below it is to be seen.
    #[serde(default)]
    pub hides_all_below: bool,
}

/// `meta.json` of a published view.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ViewMeta {
    /// What it shows, bottom first.
    pub layers: Vec<Digest>,
    /// What owned the layers.
    pub home: IdMap,
    pub method: ViewMethod,
    /// Files whose content is in the layers alone.
    pub redirects: u64,
    /// The boot in which it was written: see `durability`.
    pub boot_id: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Tag {
    pub digest: Digest,
    /// Seconds since the epoch.
    pub pulled_at: u64,
}

pub(crate) type Tags = BTreeMap<String, Tag>;

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

pub(crate) fn load_tags(layout: &Layout) -> Result<Tags, ImageError> {
    Ok(read_json(&layout.tags())?.unwrap_or_default())
}

pub(crate) fn save_tags(layout: &Layout, tags: &Tags) -> Result<(), ImageError> {
    write_json(layout, &layout.tags(), tags)
}

pub(crate) fn load_record(layout: &Layout, digest: &Digest) -> Result<Option<ImageRecord>, ImageError> {
    read_json(&layout.manifest(digest))
}

pub(crate) fn load_records(layout: &Layout) -> Result<Vec<ImageRecord>, ImageError> {
    let dir = layout.manifests();
    let entries = std::fs::read_dir(&dir).map_err(|e| ImageError::store("reading", &dir, e))?;
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| ImageError::store("reading", &dir, e))?.path();
        records.extend(read_json::<ImageRecord>(&path)?);
    }
    Ok(records)
}

pub(crate) fn load_config(layout: &Layout, digest: &Digest) -> Result<ImageConfiguration, ImageError> {
    let path = layout.config(digest);
    read_json(&path)?.ok_or_else(|| ImageError::Damaged { path, reason: "it is missing".into() })
}

pub(crate) fn load_meta(layout: &Layout, diff_id: &Digest) -> Result<Option<LayerMeta>, ImageError> {
    read_json(&layout.layer(diff_id).join("meta.json"))
}

/// Of a published view, by its directory; none if there is no such view.
pub(crate) fn load_view(path: &Path) -> Result<Option<ViewMeta>, ImageError> {
    read_json(&path.join("meta.json"))
}

pub(crate) fn write_json(layout: &Layout, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| ImageError::store("encoding", path, std::io::Error::other(e)))?;
    atomic::write(&layout.staging(), path, &text).map_err(|e| ImageError::store("writing", path, e))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ImageError::store("reading", path, error)),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| ImageError::Damaged { path: path.to_owned(), reason: e.to_string() })
}
