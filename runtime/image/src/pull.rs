//! A whole pull: resolve, fetch what is missing, record.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::atomic;
use crate::catalog::{self, ImageRecord, LayerRecord, Tag};
use crate::error::{ErrorKind, ImageError, LayerError};
use crate::lease::Lease;
use crate::progress::{Progress, ProgressSink, Step};
use crate::reference::ImageRef;
use crate::registries::Credentials;
use crate::source::{Layer, Resolved, Source};
use crate::store::{Inner, StoredImage};

/// Kept free beyond what a pull is known to need.
const SPARE_BYTES: u64 = 64 << 20;

impl Inner {
    /// Joins the running pull of the same image with the same credentials, or starts it.
    pub(crate) async fn shared_pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<Credentials>,
        progress: ProgressSink,
        fresh: bool,
    ) -> Result<Arc<StoredImage>, ImageError> {
        let name = image.canonical();
        let (flight, _) = self.pulls.join((name.clone(), auth.clone(), fresh), progress, |hub| {
            let inner = Arc::clone(self);
            async move {
                let (name, limit) = (image.canonical(), inner.config.timeouts.pull);
                let result = tokio::time::timeout(limit, inner.run_pull(image, auth, hub, fresh))
                    .await
                    .unwrap_or(Err(ImageError::PullTimeout { image: name, seconds: limit.as_secs() }));
                // Finished layers of a bad image go with it; after a mere interruption they are what the next
                // attempt need not fetch again.
                if let Err(error) = &result
                    && error.kind() != ErrorKind::Unavailable
                    && let Err(error) = inner.sweep_layers()
                {
                    tracing::warn!(%error, "cannot remove the layers of a failed pull");
                }
                result
            }
        });
        flight.wait().await.unwrap_or(Err(ImageError::Lost { image: name }))
    }

    async fn run_pull(
        self: &Arc<Self>,
        image: ImageRef,
        auth: Option<Credentials>,
        progress: ProgressSink,
        fresh: bool,
    ) -> Result<Arc<StoredImage>, ImageError> {
        let name = image.canonical();
        if !fresh && let Some(found) = self.lookup(&name)? {
            return Ok(Arc::new(found));
        }
        progress(Progress { layer: None, step: Step::Resolving, done: 0, total: 0 });
        let source = Arc::new(Source::new(&image, auth, &self.config));
        let resolved = source.resolve().await?;
        let (layers, _pins) = self.missing(&name, &resolved)?;
        self.fetch(&name, &source, layers, resolved.layers.len() as u64, &progress).await?;
        self.record(&name, &resolved).map(Arc::new)
    }

    /// The layers to fetch. All of the image's layers are held from here on.
    fn missing(&self, image: &str, resolved: &Resolved) -> Result<(Vec<Layer>, Vec<Lease>), ImageError> {
        let limit = self.config.limits.layers;
        if resolved.layers.len() > limit {
            return Err(ImageError::Limit {
                image: image.into(),
                what: "number of layers".into(),
                limit: limit as u64,
            });
        }
        let mut seen = HashSet::new();
        let unique: Vec<&Layer> =
            resolved.layers.iter().filter(|layer| seen.insert(&layer.diff_id)).collect();
        let missing: Vec<Layer>;
        let pins;
        {
            let _tags = self.tags();
            pins = unique.iter().map(|layer| self.leases.take(layer.diff_id.as_str())).collect();
            missing = unique
                .into_iter()
                .filter(|layer| !self.layout.layer(&layer.diff_id).exists())
                .cloned()
                .collect();
        }
        let need = missing.iter().try_fold(SPARE_BYTES, |sum, layer| sum.checked_add(layer.blob.size));
        let need = need.unwrap_or(u64::MAX);
        let root = self.layout.root();
        let fs = rustix::fs::statvfs(root).map_err(|e| ImageError::store("measuring", root, e.into()))?;
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if !missing.is_empty() && free < need {
            return Err(ImageError::Space { image: image.into(), path: root.to_owned(), need, free });
        }
        Ok((missing, pins))
    }

    async fn fetch(
        self: &Arc<Self>,
        image: &str,
        source: &Arc<Source>,
        layers: Vec<Layer>,
        total: u64,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let mut done = total - layers.len() as u64;
        let mut running: FuturesUnordered<_> =
            layers.into_iter().map(|layer| self.shared_layer(source, layer, progress)).collect();
        let tell = |done| progress(Progress { layer: None, step: Step::Fetching, done, total });
        tell(done);
        while let Some((layer, result)) = running.next().await {
            result.map_err(|source| ImageError::Layer {
                image: image.to_owned(),
                layer: layer.diff_id.to_string(),
                source,
            })?;
            done += 1;
            tell(done);
        }
        Ok(())
    }

    /// Joins the running fetch of the same layer, or starts it. A fetch that another pull started may fail
    /// for reasons of its own source; then this pull tries with its own.
    async fn shared_layer(
        self: &Arc<Self>,
        source: &Arc<Source>,
        layer: Layer,
        progress: &ProgressSink,
    ) -> (Layer, Result<(), LayerError>) {
        loop {
            let (flight, started) = self.layers.join(layer.diff_id.clone(), Arc::clone(progress), |hub| {
                Arc::clone(self).fetch_layer(Arc::clone(source), layer.clone(), hub)
            });
            let result = flight.wait().await.unwrap_or(Err(LayerError::Lost));
            if result.is_ok() || started {
                return (layer, result);
            }
        }
    }

    /// Makes the image known, and hands it out.
    fn record(&self, name: &str, resolved: &Resolved) -> Result<StoredImage, ImageError> {
        let record = ImageRecord {
            digest: resolved.digest.clone(),
            config: resolved.config_digest.clone(),
            layers: resolved
                .layers
                .iter()
                .map(|layer| LayerRecord { diff_id: layer.diff_id.clone(), size: layer.blob.size })
                .collect(),
        };
        let mut bytes = 0u64;
        for layer in &record.layers {
            bytes = bytes
                .saturating_add(catalog::load_meta(&self.layout, &layer.diff_id)?.map_or(0, |m| m.bytes));
        }
        if bytes > self.config.limits.image_bytes {
            let limit = self.config.limits.image_bytes;
            return Err(ImageError::Limit {
                image: name.into(),
                what: "unpacked size in bytes".into(),
                limit,
            });
        }
        let mut tags = self.tags();
        let path = self.layout.config(&record.config);
        atomic::write(&self.layout.staging(), &path, &resolved.config_bytes)
            .map_err(|e| ImageError::store("writing", &path, e))?;
        catalog::write_json(&self.layout, &self.layout.manifest(&record.digest), &record)?;
        let mut changed = tags.clone();
        changed.insert(name.to_owned(), Tag { digest: record.digest.clone(), pulled_at: catalog::now() });
        catalog::save_tags(&self.layout, &changed)?;
        *tags = changed;
        self.image(name.to_owned(), &record)?.ok_or_else(|| ImageError::Damaged {
            path: self.layout.layers(),
            reason: format!("a layer of {name} has disappeared"),
        })
    }
}
