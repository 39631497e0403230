//! What the owner of a store decides: ids, limits, time limits, registries.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::registries::RegistriesConfig;
use crate::unpack::idmap::Extents;

/// The subordinate ids that image ids are stored as: image id `u` is owned by host id `uid_start + u`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdMap {
    pub uid_start: u32,
    pub uid_count: u32,
    pub gid_start: u32,
    pub gid_count: u32,
}

impl std::fmt::Display for IdMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = |start: u32, count: u32| u64::from(start) + u64::from(count.max(1)) - 1;
        let uids = last(self.uid_start, self.uid_count);
        let gids = last(self.gid_start, self.gid_count);
        write!(f, "uids {}-{uids} gids {}-{gids}", self.uid_start, self.gid_start)
    }
}

/// How the files of a layer reach a range other than home: see [`crate::ImageStore::view`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ViewMethod {
    /// A new file with the same extents.
    Reflink,
    /// An empty file that names the layer's, for an overlay to read there; a copy where that could not be read.
    Redirect,
    Copy,
}

#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Home: what owns the files of layers.
    pub ids: IdMap,
    /// All further ranges of 65,536 that workspaces may run in.
    pub ranges: Vec<IdMap>,
    /// None for the best that file system and kernel can do. Set for tests and measurements.
    pub view_method: Option<ViewMethod>,
    /// The executable that is run as `EXE unpack` and calls [`crate::unpack_main`].
    pub unpacker: PathBuf,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub registries: RegistriesConfig,
    /// Layers that are fetched and unpacked at the same time, over all pulls; and views that are made at the same time.
    pub parallel_layers: usize,
}

impl StoreConfig {
    pub fn new(ids: IdMap, unpacker: PathBuf) -> Self {
        Self {
            ids,
            ranges: Vec::new(),
            view_method: None,
            unpacker,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            registries: RegistriesConfig::default(),
            parallel_layers: 4,
        }
    }

    /// Every id that a tree of the store, or of a workspace, may belong to.
    pub(crate) fn all_ids(&self) -> Extents {
        Extents::all(std::iter::once(&self.ids).chain(&self.ranges))
    }
}

/// What an image may cost. Each is a refusal that names the entry, never a truncation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Unpacked bytes of one layer, sparse files at their logical size.
    pub layer_bytes: u64,
    /// Unpacked bytes of all layers of one image.
    pub image_bytes: u64,
    /// Tar entries of one layer, the implied parent directories included.
    pub layer_entries: u64,
    /// Bytes of the layer as downloaded for each of its entries, once it has more than `entry_floor`: a layer of nothing but
    /// empty files costs its sender next to nothing, and the node a file each.
    pub entry_bytes: u64,
    pub entry_floor: u64,
    /// Lengths of the paths of all directories of one layer, which the unpacker remembers.
    pub directory_bytes: u64,
    pub path_length: usize,
    pub name_length: usize,
    pub path_depth: usize,
    /// Decompressed to compressed bytes, once a layer has grown beyond `ratio_floor`.
    pub ratio: u64,
    pub ratio_floor: u64,
    pub layers: usize,
    pub manifest_bytes: usize,
    pub config_bytes: usize,
    /// One PAX header or GNU long name.
    pub extension_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_bytes: 64 << 30,
            image_bytes: 128 << 30,
            layer_entries: 1_000_000,
            entry_bytes: 24,
            entry_floor: 50_000,
            directory_bytes: 256 << 20,
            path_length: 4096,
            name_length: 255,
            path_depth: 256,
            ratio: 500,
            ratio_floor: 64 << 20,
            layers: 128,
            manifest_bytes: 4 << 20,
            config_bytes: 4 << 20,
            extension_bytes: 1 << 20,
        }
    }
}

/// In a configuration file each duration is a number of seconds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    #[serde(deserialize_with = "seconds")]
    pub connect: Duration,
    /// Longest silence of a registry, before and within an answer.
    #[serde(deserialize_with = "seconds")]
    pub idle: Duration,
    /// Longest time for one manifest or configuration, each attempt.
    #[serde(deserialize_with = "seconds")]
    pub document: Duration,
    /// Longest time for one layer, download and unpacking together.
    #[serde(deserialize_with = "seconds")]
    pub layer: Duration,
    /// Longest time for a whole pull.
    #[serde(deserialize_with = "seconds")]
    pub pull: Duration,
    /// Attempts without progress before a step of a pull fails.
    pub attempts: u32,
    /// The first wait between attempts; doubles each time.
    #[serde(deserialize_with = "seconds")]
    pub backoff: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            document: Duration::from_secs(60),
            layer: Duration::from_secs(60 * 60),
            pull: Duration::from_secs(2 * 60 * 60),
            attempts: 4,
            backoff: Duration::from_millis(250),
        }
    }
}

/// At most a week; a fraction is allowed.
fn seconds<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(input)?;
    if !(0.001..=604_800.0).contains(&seconds) {
        let words = format!("was {seconds}; allowed: 0.001 to 604800 seconds");
        return Err(serde::de::Error::custom(words));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_seconds() {
        let read = |text: &str| serde_json::from_str::<Timeouts>(text);
        let timeouts = read(r#"{"idle": 2, "backoff": 0.01, "attempts": 1}"#).unwrap();
        assert_eq!((timeouts.idle, timeouts.backoff), (Duration::from_secs(2), Duration::from_millis(10)));
        assert_eq!((timeouts.attempts, timeouts.layer), (1, Timeouts::default().layer));
        for bad in
            [r#"{"idle": 0}"#, r#"{"idle": -1}"#, r#"{"pull": 1e300}"#, r#"{"attempts": 0.5}"#, r#"{"x": 1}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
