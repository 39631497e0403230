//! Images of this machine: [`Images`] on top of `cordium-image`.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use cordium_image::{Credentials, ErrorKind, ImageError, ImageInfo, ImageStore, StoredImage};
use cordium_proto::v1::{Image, PruneImagesResponse, pull_progress::Step};
use cordium_runtime::IdMap;
use futures::{FutureExt as _, future::BoxFuture};

use crate::{
    images::{ImageFailure, Images, Layers, Login, Progress, ProgressSink, RunImage},
    node_runtime::image_ids,
    request_error::RequestError,
    runtime::chain,
};

/// The image store behind the trait.
pub struct StoredImages(pub ImageStore);

impl Images for StoredImages {
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        login: Option<Login>,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<Arc<RunImage>, ImageFailure>> {
        async move {
            let image = self.0.ensure(reference, credentials(login), told(progress)).await;
            image.map(run_image).map_err(|error| ImageFailure(chain(&error)))
        }
        .boxed()
    }

    fn layers<'a>(
        &'a self,
        image: &'a RunImage,
        ids: &'a IdMap,
    ) -> BoxFuture<'a, Result<Layers, ImageFailure>> {
        async move {
            let unknown = || ImageFailure(format!("image {} is not of this store", image.reference));
            let stored = image.lease.downcast_ref::<Arc<StoredImage>>().ok_or_else(unknown)?;
            let view = self.0.view(stored, &image_ids(ids)).await;
            let view = view.map_err(|error| ImageFailure(chain(&error)))?;
            Ok(Layers { dirs: view.layers, data: view.data })
        }
        .boxed()
    }

    fn hold(&self, digest: &str) -> Result<Arc<RunImage>, ImageFailure> {
        self.0.lease(digest).map(run_image).map_err(|error| ImageFailure(chain(&error)))
    }

    fn list(&self) -> Result<Vec<Image>, RequestError> {
        Ok(self.0.list().map_err(refused)?.into_iter().map(image).collect())
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        login: Option<Login>,
        progress: ProgressSink,
    ) -> BoxFuture<'a, Result<Image, RequestError>> {
        async move {
            let pulled = self.0.pull(reference, credentials(login), told(progress)).await.map_err(refused)?;
            let images = self.0.list().map_err(refused)?;
            let found = images.into_iter().find(|image| {
                image.digest == pulled.digest && image.reference.as_deref() == Some(&pulled.reference)
            });
            found.map(image).ok_or_else(|| {
                RequestError::Internal(format!("image {reference} was pulled and is not in the store"))
            })
        }
        .boxed()
    }

    fn remove<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<u64, RequestError>> {
        async move { self.0.remove(reference).await.map_err(refused) }.boxed()
    }

    fn prune(&self, all: bool) -> BoxFuture<'_, Result<PruneImagesResponse, RequestError>> {
        async move {
            let pruned = self.0.prune(all).await.map_err(refused)?;
            Ok(PruneImagesResponse { removed: pruned.images, freed_bytes: pruned.bytes })
        }
        .boxed()
    }
}

fn credentials(login: Option<Login>) -> Option<Credentials> {
    login.map(|login| Credentials { username: login.username, password: login.password })
}

fn run_image(stored: Arc<StoredImage>) -> Arc<RunImage> {
    Arc::new(RunImage {
        reference: stored.reference.clone(),
        digest: stored.digest.clone(),
        config: stored.config.clone(),
        lease: Box::new(stored),
    })
}

fn image(info: ImageInfo) -> Image {
    let pulled_at = SystemTime::UNIX_EPOCH + Duration::from_secs(info.pulled_at);
    Image {
        reference: info.reference.unwrap_or_default(),
        digest: info.digest,
        size_bytes: info.bytes,
        layers: info.layers as u32,
        pulled_at: (info.pulled_at > 0).then(|| pulled_at.into()),
        in_use: info.users > 0,
    }
}

/// Passes progress on. A layer that is there without having been fetched was there before.
fn told(sink: ProgressSink) -> cordium_image::ProgressSink {
    let fetched: Mutex<HashSet<String>> = Mutex::default();
    Arc::new(move |progress: cordium_image::Progress| {
        let layer = progress.layer.unwrap_or_default();
        let step = match progress.step {
            cordium_image::Step::Resolving => Step::Resolving,
            cordium_image::Step::Waiting => Step::Waiting,
            cordium_image::Step::Fetching => {
                fetched.lock().unwrap_or_else(PoisonError::into_inner).insert(layer.clone());
                Step::Downloading
            }
            cordium_image::Step::Ready => {
                let was_fetched = fetched.lock().unwrap_or_else(PoisonError::into_inner).contains(&layer);
                if was_fetched || layer.is_empty() { Step::Done } else { Step::Cached }
            }
        };
        // Of the image as a whole the store counts layers, not bytes.
        let (done, total) = if layer.is_empty() { (0, 0) } else { (progress.done, progress.total) };
        sink(Progress { layer, step, done, total });
    })
}

fn refused(error: ImageError) -> RequestError {
    let text = chain(&error);
    match error.kind() {
        ErrorKind::InvalidInput => RequestError::Invalid(text),
        ErrorKind::NotFound => RequestError::NotFound(text),
        ErrorKind::Unauthorized => {
            RequestError::wrong_state(text, "give the registry's user name and password")
        }
        ErrorKind::InUse => RequestError::wrong_state(text, "stop the workspaces that use it"),
        ErrorKind::Exhausted => RequestError::Exhausted(text),
        // UNAVAILABLE would mean that this node is gone.
        ErrorKind::Unavailable => {
            RequestError::wrong_state(text, "check the reference, and whether the registry answers")
        }
        ErrorKind::Internal => RequestError::Internal(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_layer_that_was_not_fetched_was_here_before() {
        let seen: Arc<Mutex<Vec<(String, Step, u64)>>> = Arc::default();
        let sink = {
            let seen = seen.clone();
            told(Arc::new(move |p: Progress| seen.lock().unwrap().push((p.layer, p.step, p.total))))
        };
        use cordium_image::Step as From;
        for (layer, step) in [
            (None, From::Fetching),
            (Some("a"), From::Fetching),
            (Some("a"), From::Ready),
            (Some("b"), From::Ready),
        ] {
            sink(cordium_image::Progress { layer: layer.map(str::to_owned), step, done: 1, total: 2 });
        }
        let expected = [
            ("", Step::Downloading, 0),
            ("a", Step::Downloading, 2),
            ("a", Step::Done, 2),
            ("b", Step::Cached, 2),
        ];
        assert_eq!(
            *seen.lock().unwrap(),
            expected.map(|(layer, step, total)| (layer.to_owned(), step, total))
        );
    }
}
