//! One layer: from its source through the confined unpacker into `layers/`, or not at all.

use std::path::Path;
use std::sync::Arc;

use crate::catalog::{self, LayerMeta};
use crate::durability;
use crate::error::{ErrorKind, LayerError, is_full};
use crate::progress::{Progress, ProgressSink, Step};
use crate::source::{Layer, LayerSink, Source};
use crate::staged::Staged;
use crate::store::Inner;
use crate::unpack::helper::{self, Helper};
use crate::unpack::idmap::Extents;

pub(crate) fn store_error(action: &'static str, path: &Path, reason: impl std::fmt::Display) -> LayerError {
    LayerError::Store { action, path: path.display().to_string(), reason: reason.to_string() }
}

pub(crate) fn io_error(action: &'static str, path: &Path, error: &std::io::Error) -> LayerError {
    if is_full(error) {
        return LayerError::NoSpace { entry: String::new() };
    }
    store_error(action, path, error)
}

impl Inner {
    /// Fetches, unpacks, verifies and publishes a layer that is not in the store.
    pub(crate) async fn fetch_layer(
        self: Arc<Self>,
        source: Arc<Source>,
        layer: Layer,
        progress: ProgressSink,
    ) -> Result<(), LayerError> {
        let tell = |step, done| {
            let id = Some(layer.diff_id.to_string());
            progress(Progress { layer: id, step, done, total: layer.blob.size });
        };
        tell(Step::Waiting, 0);
        let _slot = self.slots.acquire().await.map_err(|_| LayerError::Lost)?;
        if self.layout.layer(&layer.diff_id).exists() {
            tell(Step::Ready, layer.blob.size);
            return Ok(());
        }
        tell(Step::Fetching, 0);
        let mut staged = Staged::create(&self, "layer")?;
        let limit = self.config.timeouts.layer;
        let result = tokio::time::timeout(limit, self.unpack(&source, &layer, &staged.path, &progress))
            .await
            .unwrap_or(Err(LayerError::Timeout { seconds: limit.as_secs() }));
        let result = result.and_then(|meta| self.publish(&meta, &staged.path));
        // Otherwise the directory is removed in the background: the caller need not wait for that.
        staged.settled = result.is_ok();
        result?;
        tell(Step::Ready, layer.blob.size);
        Ok(())
    }

    async fn unpack(
        &self,
        source: &Source,
        layer: &Layer,
        staging: &Path,
        progress: &ProgressSink,
    ) -> Result<LayerMeta, LayerError> {
        let mut helper = Helper::start(&self.config, &Extents::of(&self.config.ids)).await?;
        let result = self.drive(&mut helper, source, layer, staging, progress).await;
        helper.end().await;
        result
    }

    async fn drive(
        &self,
        helper: &mut Helper,
        source: &Source,
        layer: &Layer,
        staging: &Path,
        progress: &ProgressSink,
    ) -> Result<LayerMeta, LayerError> {
        let ids = self.config.ids.uid_count.min(self.config.ids.gid_count).min(65_536);
        let dir = helper::open_dir(staging)?;
        let socket = helper.unpack(&self.config.limits, ids, &dir)?;
        let mut sink = LayerSink::new(socket, layer.blob.size, &layer.diff_id, Arc::clone(progress));
        let mut early = None;
        let copied = {
            let mut outcome = std::pin::pin!(helper.outcome());
            let mut copy = std::pin::pin!(source.copy(&layer.blob, &mut sink));
            loop {
                tokio::select! {
                    copied = &mut copy => break copied,
                    // A refusal ends the download. Only for an unreadable stream is the rest awaited: the
                    // digest may show that it is not what the manifest promised.
                    answer = &mut outcome, if early.is_none() => match answer {
                        Err(error) if !matches!(error, LayerError::Stream { .. }) => return Err(error),
                        answer => early = Some(answer),
                    },
                }
            }
        };
        copied?;
        sink.finish(layer.blob.digest.as_ref()).await?;
        let report = match early {
            Some(answer) => answer?,
            None => helper.outcome().await?,
        };
        if report.diff_id != layer.diff_id.as_str() {
            return Err(LayerError::DiffId { expected: layer.diff_id.to_string(), actual: report.diff_id });
        }
        if report.skipped_devices > 0 {
            tracing::warn!(layer = %layer.diff_id, count = report.skipped_devices, "device nodes of an image were left out");
        }
        Ok(LayerMeta {
            diff_id: layer.diff_id.clone(),
            entries: report.entries,
            bytes: report.bytes,
            boot_id: durability::boot_id(),
            skipped_devices: report.skipped_devices,
            hides_all_below: report.hides_all_below,
        })
    }

    fn publish(&self, meta: &LayerMeta, staged: &Path) -> Result<(), LayerError> {
        let target = self.layout.layer(&meta.diff_id);
        catalog::write_json(&self.layout, &staged.join("meta.json"), meta).map_err(|error| {
            match error.kind() {
                ErrorKind::Exhausted => LayerError::NoSpace { entry: String::new() },
                _ => store_error("describing", staged, error),
            }
        })?;
        std::fs::rename(staged, &target).map_err(|e| io_error("publishing", &target, &e))?;
        durability::flush_later(self.layout.staging(), target);
        Ok(())
    }
}
