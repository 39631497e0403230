//! Views that are not, or no longer, of use: at the start of a store, and when a layer goes.

use std::path::{Path, PathBuf};

use crate::catalog::{self, ViewMeta};
use crate::durability;
use crate::error::ImageError;
use crate::store::Inner;

impl Inner {
    /// Moves views out of the way that a power cut may have torn, of which a layer is not there, or that were made
    /// of layers which another range owned.
    pub(crate) fn discard_useless_views(&self) -> Result<(), ImageError> {
        for path in self.all_views()? {
            let meta = catalog::load_view(&path).ok().flatten();
            let useful = meta.is_some_and(|meta| {
                meta.home == self.config.ids
                    && durability::is_reliable(&path, &meta.boot_id)
                    && meta.layers.iter().all(|layer| self.layout.layer(layer).exists())
            });
            if !useful {
                tracing::info!(view = %path.display(), "discarding a view that may be incomplete or has lost its layer");
                self.move_away(&path, "torn")?;
            }
        }
        Ok(())
    }

    /// Renames every view of a layer that is not there any more into staging. The caller holds the tags' lock.
    pub(crate) fn detach_views(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut doomed = Vec::new();
        for path in self.all_views()? {
            let meta = catalog::load_view(&path).ok().flatten();
            let orphan = |meta: ViewMeta| meta.layers.iter().any(|layer| !self.layout.layer(layer).exists());
            if meta.is_none_or(orphan) {
                doomed.push(self.move_away(&path, "removed")?);
            }
        }
        Ok(doomed)
    }

    fn all_views(&self) -> Result<Vec<PathBuf>, ImageError> {
        let mut views = Vec::new();
        for range in list(&self.layout.views())? {
            views.extend(list(&range)?);
        }
        Ok(views)
    }

    fn move_away(&self, path: &Path, prefix: &str) -> Result<PathBuf, ImageError> {
        let target = self.layout.new_staging(prefix);
        std::fs::rename(path, &target).map_err(|e| ImageError::store("moving away", path, e))?;
        Ok(target)
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let failed = |e| ImageError::store("reading", dir, e);
    std::fs::read_dir(dir).map_err(failed)?.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect()
}
