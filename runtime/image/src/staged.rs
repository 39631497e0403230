//! Work in progress: what is made here is either published whole, or removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::LayerError;
use crate::layer::io_error;
use crate::store::Inner;
use crate::unpack::helper;

/// A directory in staging that is removed unless it was published.
pub(crate) struct Staged {
    pub path: PathBuf,
    inner: Arc<Inner>,
    pub settled: bool,
}

impl Staged {
    pub(crate) fn create(inner: &Arc<Inner>, prefix: &str) -> Result<Self, LayerError> {
        let path = inner.layout.new_staging(prefix);
        std::fs::create_dir(&path).map_err(|e| io_error("creating", &path, &e))?;
        Ok(Self { path, inner: Arc::clone(inner), settled: false })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (inner, path) = (Arc::clone(&self.inner), self.path.clone());
            runtime.spawn(async move { discard(&inner, &path).await });
        }
    }
}

async fn discard(inner: &Inner, path: &Path) {
    if let Err(error) = helper::remove_tree(&inner.config, path).await {
        tracing::warn!(path = %path.display(), %error, "cannot remove what is unfinished; the next start will");
    }
}
