//! Layers for the ranges of ids that do not own them: trees of their own, made on first use.
//!
//! ```text
//!  layers/<hex>/fs            owned by home          ◀── data-only layer of the overlay, where files are redirects
//!  views/<range>/<hex>/fs     owned by the range     ◀── layer of the overlay: names, owners, modes, attributes
//! ```
//! With data of its own, shared or not, a view is of one layer, and images share it as they share the layer. With redirects it
//! is of an image, all layers merged: an overlay follows redirects from its lowest layer only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::catalog::{self, ViewMeta};
use crate::config::{IdMap, ViewMethod};
use crate::digest::Digest;
use crate::durability;
use crate::error::{ErrorKind, ImageError, LayerError};
use crate::layer::{io_error, store_error};
use crate::progress::no_progress;
use crate::staged::Staged;
use crate::store::{ImageStore, Inner, StoredImage};
use crate::unpack::helper;
use crate::unpack::idmap::Extents;
use crate::unpack::protocol::{Can, Job};

/// An image as a range sees it. Good for as long as the [`StoredImage`] lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Directories to stack, bottom first.
    pub layers: Vec<PathBuf>,
    /// What the overlay needs below them as a data-only layer; absolute. None where no layer refers to it.
    pub data: Option<PathBuf>,
}

impl ImageStore {
    /// The layers of an image with files that belong to `range`. Home has them as they are; for another range views are
    /// made of those that have none yet, which takes from milliseconds to seconds.
    pub async fn view(&self, image: &StoredImage, range: &IdMap) -> Result<View, ImageError> {
        let inner = &self.inner;
        if *range == inner.config.ids {
            return Ok(View { layers: image.layers.clone(), data: None });
        }
        if !inner.config.ranges.contains(range) {
            return Err(ImageError::Range { range: *range });
        }
        let failed = |source| ImageError::View { image: image.reference.clone(), range: *range, source };
        let stacks = Stack::of(&image.diff_ids, inner.view_method().await.map_err(failed)?);
        let mut making: FuturesUnordered<_> =
            stacks.iter().map(|stack| inner.shared_view(stack, range)).collect();
        let mut redirects = false;
        while let Some(result) = making.next().await {
            redirects |= result.map_err(failed)?;
        }
        let layers = stacks.iter().map(|stack| inner.layout.view(range, &stack.name()).join("fs")).collect();
        let data = match redirects {
            true => Some(inner.data_layer()?),
            false => None,
        };
        Ok(View { layers, data })
    }
}

/// What one view shows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Stack {
    /// Bottom first.
    layers: Vec<Digest>,
    method: ViewMethod,
}

impl Stack {
    /// The views that an image needs, bottom first.
    fn of(layers: &[Digest], method: ViewMethod) -> Vec<Self> {
        match method {
            ViewMethod::Redirect if !layers.is_empty() => vec![Self { layers: layers.to_vec(), method }],
            _ => layers.iter().map(|layer| Self { layers: vec![layer.clone()], method }).collect(),
        }
    }

    /// Merged, with nothing below it.
    fn is_whole(&self) -> bool {
        self.method == ViewMethod::Redirect
    }

    /// That of the layer, if it shows one as it is: so a view by one method is found when another has become the best.
    fn name(&self) -> Digest {
        match self.layers.as_slice() {
            [layer] if !self.is_whole() => layer.clone(),
            layers => {
                let list: Vec<&str> = layers.iter().map(Digest::as_str).collect();
                Digest::of(format!("merged\n{}", list.join("\n")).as_bytes())
            }
        }
    }
}

impl Inner {
    fn data_layer(&self) -> Result<PathBuf, ImageError> {
        let path = self.layout.layers();
        std::path::absolute(&path).map_err(|e| ImageError::store("finding", path, e))
    }

    /// Joins the running work on the same view, or starts it. Answers whether the view has redirects.
    async fn shared_view(self: &Arc<Self>, stack: &Stack, range: &IdMap) -> Result<bool, LayerError> {
        let (flight, _) = self.views.join((stack.clone(), *range), no_progress(), |_| {
            let (inner, stack, range) = (Arc::clone(self), stack.clone(), *range);
            async move {
                // A waiter who goes away gives up the image before this task has heard of it.
                let _leases: Vec<_> =
                    stack.layers.iter().map(|layer| inner.leases.take(layer.as_str())).collect();
                inner.ensure_view(&stack, &range).await
            }
        });
        flight.wait().await.unwrap_or(Err(LayerError::Lost))
    }

    async fn ensure_view(self: &Arc<Self>, stack: &Stack, range: &IdMap) -> Result<bool, LayerError> {
        let path = self.layout.view(range, &stack.name());
        let known = catalog::load_view(&path).map_err(|e| store_error("reading", &path, e))?;
        if let Some(meta) = known {
            return Ok(meta.redirects > 0);
        }
        let _slot = self.view_slots.acquire().await.map_err(|_| LayerError::Lost)?;
        let mut staged = Staged::create(self, "view")?;
        let limit = self.config.timeouts.layer;
        let result = tokio::time::timeout(limit, self.make_view(stack, range, &staged))
            .await
            .unwrap_or(Err(LayerError::Timeout { seconds: limit.as_secs() }));
        // What is not published is removed in the background: the caller need not wait for that.
        result.and_then(|meta| self.publish_view(&meta, &path, &mut staged))
    }

    async fn make_view(&self, stack: &Stack, range: &IdMap, staged: &Staged) -> Result<ViewMeta, LayerError> {
        let absolute = |layer: &Digest| {
            let path = self.layout.layer(layer);
            std::path::absolute(&path).map_err(|e| io_error("finding", &path, &e))
        };
        let layers = stack.layers.iter().map(absolute).collect::<Result<_, _>>()?;
        let job = Job::View { layers, method: stack.method, whole: stack.is_whole() };
        let ids = Extents::shift(&self.config.ids, range);
        let dir = helper::open_dir(&staged.path)?;
        let report = helper::run(&self.config, &ids, &job, &dir).await?;
        tracing::debug!(?stack, %range, entries = report.entries, redirects = report.redirects, "view made");
        Ok(ViewMeta {
            layers: stack.layers.clone(),
            home: self.config.ids,
            method: stack.method,
            redirects: report.redirects,
            boot_id: durability::boot_id(),
        })
    }

    fn publish_view(&self, meta: &ViewMeta, target: &Path, staged: &mut Staged) -> Result<bool, LayerError> {
        let parent = target.parent().unwrap_or(target);
        std::fs::create_dir_all(parent).map_err(|e| io_error("creating", parent, &e))?;
        catalog::write_json(&self.layout, &staged.path.join("meta.json"), meta).map_err(
            |error| match error.kind() {
                ErrorKind::Exhausted => LayerError::NoSpace { entry: String::new() },
                _ => store_error("describing", &staged.path, error),
            },
        )?;
        match std::fs::rename(&staged.path, target) {
            Ok(()) => staged.settled = true,
            // Made by a task that was aborted at its very end.
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
                return Ok(meta.redirects > 0);
            }
            Err(error) => return Err(io_error("publishing", target, &error)),
        }
        durability::flush_later(self.layout.staging(), target.to_owned());
        Ok(meta.redirects > 0)
    }

    async fn view_method(self: &Arc<Self>) -> Result<ViewMethod, LayerError> {
        match self.config.view_method {
            Some(method) => Ok(method),
            None => Ok(best(self.can().await?)),
        }
    }

    /// Found out when it is first needed, and then known.
    async fn can(self: &Arc<Self>) -> Result<&Can, LayerError> {
        self.can
            .get_or_try_init(|| async {
                let staged = Staged::create(self, "probe")?;
                let path = &staged.path;
                let path = std::path::absolute(path).map_err(|e| io_error("finding", path, &e))?;
                let dir = helper::open_dir(&path)?;
                let ids = Extents::of(&self.config.ids);
                let can = helper::run(&self.config, &ids, &Job::Probe { path }, &dir).await?.can;
                tracing::info!(method = ?best(&can), reasons = ?can.reasons, "how layers reach other ranges of ids");
                Ok(can)
            })
            .await
    }
}

fn best(can: &Can) -> ViewMethod {
    match can {
        Can { reflink: true, .. } => ViewMethod::Reflink,
        Can { redirect: true, .. } => ViewMethod::Redirect,
        _ => ViewMethod::Copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_extents_come_first_and_a_copy_last() {
        let best = |reflink, redirect| best(&Can { reflink, redirect, reasons: Vec::new() });
        assert_eq!(best(true, true), ViewMethod::Reflink);
        assert_eq!(best(false, true), ViewMethod::Redirect);
        assert_eq!(best(false, false), ViewMethod::Copy);
    }

    #[test]
    fn redirects_are_of_an_image_and_all_else_of_a_layer() {
        let layers = [Digest::of(b"one"), Digest::of(b"two")];
        let names = |layers: &[Digest], method| -> Vec<Digest> {
            Stack::of(layers, method).iter().map(Stack::name).collect()
        };
        assert_eq!(names(&layers, ViewMethod::Copy), layers);
        assert!(names(&[], ViewMethod::Redirect).is_empty() && names(&[], ViewMethod::Copy).is_empty());
        assert_eq!(names(&layers, ViewMethod::Reflink), layers);
        let merged = names(&layers, ViewMethod::Redirect);
        assert_eq!(merged.len(), 1);
        let [a, b] = layers;
        assert_ne!(names(&[b, a.clone()], ViewMethod::Redirect), merged, "the order matters");
        let one = [a];
        assert_ne!(names(&one, ViewMethod::Redirect), one, "whiteouts are kept in the one only");
    }
}
