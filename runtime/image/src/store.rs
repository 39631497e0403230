//! The store itself: what is there, and handing it out.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci_spec::image::ImageConfiguration;
use rustix::fs::FlockOperation;
use tokio::sync::{OnceCell, Semaphore};

use crate::catalog::{self, ImageRecord, LayerRecord, Tags};
use crate::config::{IdMap, StoreConfig};
use crate::digest::Digest;
use crate::durability;
use crate::error::{ImageError, LayerError};
use crate::flight::Flights;
use crate::layout::Layout;
use crate::lease::{Lease, LeaseTable};
use crate::progress::ProgressSink;
use crate::reference::ImageRef;
use crate::registries::Credentials;
use crate::unpack::helper;
use crate::unpack::protocol::{Can, Job};
use crate::view::Stack;

/// Cheap to clone. Its calls need a tokio runtime.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
}

/// Reference, credentials, and whether the tag is to be resolved anew.
type PullKey = (String, Option<Credentials>, bool);

pub(crate) struct Inner {
    pub layout: Layout,
    pub config: StoreConfig,
    /// Also serializes "is it there, and mine from now on" against removal.
    pub tags: Mutex<Tags>,
    pub leases: Arc<LeaseTable>,
    pub pulls: Flights<PullKey, Result<Arc<StoredImage>, ImageError>>,
    pub layers: Flights<Digest, Result<(), LayerError>>,
    pub views: Flights<(Stack, IdMap), Result<bool, LayerError>>,
    pub slots: Semaphore,
    /// Apart from those of downloads: a start does not wait for another image's registry.
    pub view_slots: Semaphore,
    /// What file system and kernel can do for views.
    pub can: OnceCell<Can>,
    /// Bounds what removes trees in the background.
    pub sweepers: Arc<Semaphore>,
    _lock: File,
}

/// An image that is complete in the store. While it lives, nothing of it is removed.
#[derive(Debug)]
pub struct StoredImage {
    pub reference: String,
    pub digest: String,
    pub config: ImageConfiguration,
    /// Directories to stack, bottom first.
    pub layers: Vec<PathBuf>,
    /// Of those directories, in the same order.
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) _lease: Lease,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// None for an image whose tag has moved on.
    pub reference: Option<String>,
    pub digest: String,
    /// Unpacked; shared layers count in each image, views for further ranges in none.
    pub bytes: u64,
    pub layers: usize,
    /// Seconds since the epoch; 0 if untagged.
    pub pulled_at: u64,
    pub users: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub images: Vec<String>,
    pub layers: usize,
    /// Of the layers; their views go with them and are not counted.
    pub bytes: u64,
}

/// How many trees are removed at once in the background.
const SWEEPERS: usize = 1;

impl ImageStore {
    /// Opens the store and removes what a crash has left behind. Must be called within a tokio runtime.
    pub fn open(root: &Path, config: StoreConfig) -> Result<Self, ImageError> {
        // A second installation is refused by design and means the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let layout = Layout::create(root)?;
        let lock =
            File::create(layout.lock()).map_err(|e| ImageError::store("creating", layout.lock(), e))?;
        rustix::fs::flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| ImageError::Locked { path: root.to_owned() })?;
        let tags = catalog::load_tags(&layout)?;
        let slots = || Semaphore::new(config.parallel_layers.max(1));
        let (slots, view_slots) = (slots(), slots());
        let store = Self {
            inner: Arc::new(Inner {
                layout,
                tags: Mutex::new(tags),
                leases: Arc::new(LeaseTable::default()),
                pulls: Flights::new(),
                layers: Flights::new(),
                views: Flights::new(),
                slots,
                view_slots,
                can: OnceCell::new(),
                sweepers: Arc::new(Semaphore::new(SWEEPERS)),
                config,
                _lock: lock,
            }),
        };
        store.inner.discard_unreliable()?;
        store.inner.discard_useless_views()?;
        store.inner.sweep_staging()?;
        Ok(store)
    }

    /// The image, from the store if its reference is known there, else pulled. Waits for a running pull of
    /// the same reference.
    pub async fn ensure(
        &self,
        reference: &str,
        auth: Option<Credentials>,
        progress: ProgressSink,
    ) -> Result<Arc<StoredImage>, ImageError> {
        let image = ImageRef::parse(reference)?;
        if let Some(found) = self.inner.lookup(&image.canonical())? {
            return Ok(Arc::new(found));
        }
        self.inner.shared_pull(image, auth, progress, false).await
    }

    /// The image as its reference stands *now*; layers that are in the store are not fetched again.
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<Credentials>,
        progress: ProgressSink,
    ) -> Result<Arc<StoredImage>, ImageError> {
        self.inner.shared_pull(ImageRef::parse(reference)?, auth, progress, true).await
    }

    /// The image of a digest that the store has already given out, for a workspace that is still running
    /// after a restart.
    pub fn lease(&self, digest: &str) -> Result<Arc<StoredImage>, ImageError> {
        let missing = || ImageError::NotStored { reference: digest.to_owned() };
        let parsed = Digest::parse(digest).map_err(|_| missing())?;
        let tags = self.inner.tags();
        let reference = tags.iter().find(|(_, tag)| tag.digest == parsed).map(|(name, _)| name.clone());
        let record = catalog::load_record(&self.inner.layout, &parsed)?.ok_or_else(missing)?;
        let image = self.inner.image(reference.unwrap_or_else(|| digest.to_owned()), &record)?;
        image.map(Arc::new).ok_or_else(missing)
    }

    pub fn list(&self) -> Result<Vec<ImageInfo>, ImageError> {
        let tags = self.inner.tags().clone();
        let mut list = Vec::new();
        for record in catalog::load_records(&self.inner.layout)? {
            let mut bytes = 0;
            for layer in &record.layers {
                bytes += catalog::load_meta(&self.inner.layout, &layer.diff_id)?.map_or(0, |meta| meta.bytes);
            }
            let info = ImageInfo {
                reference: None,
                digest: record.digest.to_string(),
                bytes,
                layers: record.layers.len(),
                pulled_at: 0,
                users: self.inner.leases.count(record.digest.as_str()),
            };
            let mut tagged = tags.iter().filter(|(_, tag)| tag.digest == record.digest).peekable();
            if tagged.peek().is_none() {
                list.push(info.clone());
            }
            list.extend(tagged.map(|(name, tag)| ImageInfo {
                reference: Some(name.clone()),
                pulled_at: tag.pulled_at,
                ..info.clone()
            }));
        }
        list.sort_by(|a, b| (&a.reference, &a.digest).cmp(&(&b.reference, &b.digest)));
        Ok(list)
    }

    /// Removes a reference, and the image with it when no other reference names it. Answers the unpacked
    /// bytes that become free; the files go in the background.
    pub async fn remove(&self, reference: &str) -> Result<u64, ImageError> {
        self.inner.remove(reference)
    }

    /// Removes what no reference names and nobody uses; with `all`, also named images that nobody uses.
    pub async fn prune(&self, all: bool) -> Result<Pruned, ImageError> {
        self.inner.prune(all)
    }

    /// Moves a directory tree out of sight at once and removes it in the background; the next start goes on with what a
    /// crash leaves. A path that is not there is success. On another file system it is removed before this returns.
    pub async fn discard_tree(&self, path: &Path) -> Result<(), ImageError> {
        let target = self.inner.layout.new_staging("removed");
        match std::fs::rename(path, &target) {
            Ok(()) => {
                self.inner.delete(vec![target]);
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(_) => self.remove_tree(path).await,
        }
    }

    /// Makes all that is in a directory, whichever range it belongs to, belong to `range`. No tenant may see the directory
    /// itself, in which [`crate::GIVING`] lies meanwhile. Done again after an interruption, it goes on.
    pub async fn give_tree(&self, path: &Path, range: &IdMap) -> Result<(), ImageError> {
        let config = &self.inner.config;
        let ids = config.all_ids();
        let shift = ids.shift_to(range).ok_or(ImageError::Range { range: *range })?;
        let give = async {
            let dir = helper::open_dir(path)?;
            helper::run(config, &ids, &Job::Give { shift }, &dir).await
        };
        let fail = |source| ImageError::Give { path: path.to_owned(), range: *range, source };
        let report = give.await.map_err(fail)?;
        tracing::info!(path = %path.display(), %range, files = report.entries, "given to another range of ids");
        Ok(())
    }

    /// Removes a directory tree whose files belong to subordinate ids, of whichever range. Never follows a symbolic link; a path
    /// that is not there is success.
    pub async fn remove_tree(&self, path: &Path) -> Result<(), ImageError> {
        helper::remove_tree(&self.inner.config, path)
            .await
            .map_err(|source| ImageError::Remove { path: path.to_owned(), source })
    }
}

impl Inner {
    pub(crate) fn tags(&self) -> MutexGuard<'_, Tags> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A complete image under this reference, leased.
    pub(crate) fn lookup(&self, canonical: &str) -> Result<Option<StoredImage>, ImageError> {
        let tags = self.tags();
        let Some(tag) = tags.get(canonical) else { return Ok(None) };
        match catalog::load_record(&self.layout, &tag.digest)? {
            Some(record) => self.image(canonical.to_owned(), &record),
            None => Ok(None),
        }
    }

    /// Hands out a recorded image; none if a layer of it is missing. The caller holds the tags' lock.
    pub(crate) fn image(
        &self,
        reference: String,
        record: &ImageRecord,
    ) -> Result<Option<StoredImage>, ImageError> {
        let mut diff_ids: Vec<Digest> = Vec::with_capacity(record.layers.len());
        for LayerRecord { diff_id, .. } in &record.layers {
            if !self.layout.layer_fs(diff_id).is_dir() {
                return Ok(None);
            }
            // An overlay does not heed this mark on the root of a layer.
            if catalog::load_meta(&self.layout, diff_id)?.is_some_and(|meta| meta.hides_all_below) {
                diff_ids.clear();
            }
            // Overlay refuses a directory twice, and the lower of two equal layers cannot be seen.
            diff_ids.retain(|known| known != diff_id);
            diff_ids.push(diff_id.clone());
        }
        Ok(Some(StoredImage {
            reference,
            digest: record.digest.to_string(),
            config: catalog::load_config(&self.layout, &record.config)?,
            layers: diff_ids.iter().map(|layer| self.layout.layer_fs(layer)).collect(),
            diff_ids,
            _lease: self.leases.take(record.digest.as_str()),
        }))
    }

    /// Moves layers that a power cut may have torn out of the way.
    fn discard_unreliable(&self) -> Result<(), ImageError> {
        let dir = self.layout.layers();
        for entry in std::fs::read_dir(&dir).map_err(|e| ImageError::store("reading", &dir, e))? {
            let entry = entry.map_err(|e| ImageError::store("reading", &dir, e))?;
            let digest = Digest::parse(&format!("sha256:{}", entry.file_name().to_string_lossy()));
            let meta = match &digest {
                Ok(digest) => catalog::load_meta(&self.layout, digest).ok().flatten(),
                Err(_) => None,
            };
            if !meta.is_some_and(|meta| durability::is_reliable(&entry.path(), &meta.boot_id)) {
                tracing::warn!(layer = %entry.path().display(), "discarding a layer that may be incomplete");
                let target = self.layout.new_staging("torn");
                std::fs::rename(entry.path(), &target)
                    .map_err(|e| ImageError::store("moving away", entry.path(), e))?;
            }
        }
        Ok(())
    }

    /// Removes what an earlier process left in staging; trees in the background, because it may be a lot.
    fn sweep_staging(self: &Arc<Self>) -> Result<(), ImageError> {
        let dir = self.layout.staging();
        let mut trees = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| ImageError::store("reading", &dir, e))? {
            let entry = entry.map_err(|e| ImageError::store("reading", &dir, e))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                trees.push(entry.path());
            } else {
                match std::fs::remove_file(entry.path()) {
                    // A flush in the background has put it into its place meanwhile.
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(ImageError::store("removing", entry.path(), error));
                    }
                    _ => {}
                }
            }
        }
        if !trees.is_empty() {
            let config = self.config.clone();
            tokio::spawn(async move {
                for tree in trees {
                    if let Err(error) = helper::remove_tree(&config, &tree).await {
                        tracing::warn!(path = %tree.display(), %error, "cannot remove a leftover");
                    }
                }
            });
        }
        Ok(())
    }
}
