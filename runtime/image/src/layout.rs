//! Where things are in the store's directory.

use std::path::{Path, PathBuf};

use crate::config::IdMap;
use crate::digest::Digest;
use crate::error::ImageError;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn create(root: &Path) -> Result<Self, ImageError> {
        use std::os::unix::fs::DirBuilderExt;
        let layout = Self { root: root.to_owned() };
        for dir in [
            root.to_owned(),
            layout.layers(),
            layout.views(),
            layout.staging(),
            layout.manifests(),
            layout.configs(),
        ] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| ImageError::store("creating", &dir, e))?;
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }
    pub(crate) fn tags(&self) -> PathBuf {
        self.root.join("tags.json")
    }
    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }
    pub(crate) fn views(&self) -> PathBuf {
        self.root.join("views")
    }
    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }
    pub(crate) fn configs(&self) -> PathBuf {
        self.root.join("configs")
    }

    /// The published directory of a layer; its files are in `fs/`, what is known about it in `meta.json`.
    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }
    pub(crate) fn layer_fs(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }
    /// Where the views of a range are.
    pub(crate) fn range(&self, range: &IdMap) -> PathBuf {
        self.views().join(format!("{}-{}", range.uid_start, range.gid_start))
    }
    /// A published view, arranged as a layer is.
    pub(crate) fn view(&self, range: &IdMap, name: &Digest) -> PathBuf {
        self.range(range).join(name.hex())
    }
    pub(crate) fn manifest(&self, digest: &Digest) -> PathBuf {
        self.manifests().join(format!("{}.json", digest.hex()))
    }
    pub(crate) fn config(&self, digest: &Digest) -> PathBuf {
        self.configs().join(format!("{}.json", digest.hex()))
    }
    pub(crate) fn new_staging(&self, prefix: &str) -> PathBuf {
        self.staging().join(format!("{prefix}-{}", uuid::Uuid::new_v4()))
    }
}
