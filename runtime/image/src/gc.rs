//! Removal. Under the tags' lock it is decided what goes and it is renamed away; the slow part comes after.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use crate::catalog::{self, ImageRecord, Tags};
use crate::digest::Digest;
use crate::error::ImageError;
use crate::reference::ImageRef;
use crate::store::{Inner, Pruned};
use crate::unpack::helper;

/// What a removal took out of sight; still to be deleted.
#[derive(Default)]
struct Doomed {
    trees: Vec<PathBuf>,
    layers: usize,
    bytes: u64,
}

impl Inner {
    pub(crate) fn remove(&self, reference: &str) -> Result<u64, ImageError> {
        let doomed = self.detach(reference)?;
        self.delete(doomed.trees);
        Ok(doomed.bytes)
    }

    pub(crate) fn prune(&self, all: bool) -> Result<Pruned, ImageError> {
        let (doomed, images) = self.detach_unused(all)?;
        let pruned = Pruned { images, layers: doomed.layers, bytes: doomed.bytes };
        self.delete(doomed.trees);
        Ok(pruned)
    }

    /// Removes layers that belong to no image.
    pub(crate) fn sweep_layers(&self) -> Result<(), ImageError> {
        let doomed = {
            let _tags = self.tags();
            self.detach_layers(&catalog::load_records(&self.layout)?)?
        };
        self.delete(doomed.trees);
        Ok(())
    }

    fn detach(&self, reference: &str) -> Result<Doomed, ImageError> {
        let missing = || ImageError::NotStored { reference: reference.to_owned() };
        let mut tags = self.tags();
        let (names, digest) = find(&tags, reference).ok_or_else(missing)?;
        let others = tags.iter().any(|(name, tag)| tag.digest == digest && !names.contains(name));
        let users = self.leases.count(digest.as_str());
        if !others && users > 0 {
            return Err(ImageError::InUse { reference: reference.to_owned(), users });
        }
        if names.is_empty() && catalog::load_record(&self.layout, &digest)?.is_none() {
            return Err(missing());
        }
        let mut changed = tags.clone();
        changed.retain(|name, _| !names.contains(name));
        catalog::save_tags(&self.layout, &changed)?;
        *tags = changed;
        if others {
            return Ok(Doomed::default());
        }
        self.forget(&digest)?;
        self.detach_layers(&catalog::load_records(&self.layout)?)
    }

    fn detach_unused(&self, all: bool) -> Result<(Doomed, Vec<String>), ImageError> {
        let mut tags = self.tags();
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for record in catalog::load_records(&self.layout)? {
            let tagged = tags.values().any(|tag| tag.digest == record.digest);
            if self.leases.count(record.digest.as_str()) > 0 || (tagged && !all) {
                kept.push(record);
            } else {
                gone.push(record);
            }
        }
        let mut changed = tags.clone();
        changed.retain(|_, tag| !gone.iter().any(|record| record.digest == tag.digest));
        if changed.len() != tags.len() {
            catalog::save_tags(&self.layout, &changed)?;
        }
        let mut names = Vec::new();
        for record in &gone {
            let before = names.len();
            names.extend(tags.iter().filter(|(_, t)| t.digest == record.digest).map(|(n, _)| n.clone()));
            if names.len() == before {
                names.push(record.digest.to_string());
            }
            self.forget(&record.digest)?;
        }
        *tags = changed;
        Ok((self.detach_layers(&kept)?, names))
    }

    /// Removes the record of an image. Its configuration goes too, unless another image has the same.
    fn forget(&self, digest: &Digest) -> Result<(), ImageError> {
        let Some(record) = catalog::load_record(&self.layout, digest)? else { return Ok(()) };
        let path = self.layout.manifest(digest);
        std::fs::remove_file(&path).map_err(|e| ImageError::store("removing", &path, e))?;
        if !catalog::load_records(&self.layout)?.iter().any(|other| other.config == record.config) {
            let path = self.layout.config(&record.config);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ImageError::store("removing", &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Renames every layer, and the views of it, into staging that neither a record nor a running pull needs.
    fn detach_layers(&self, records: &[ImageRecord]) -> Result<Doomed, ImageError> {
        let needed: HashSet<&str> =
            records.iter().flat_map(|record| &record.layers).map(|layer| layer.diff_id.hex()).collect();
        let dir = self.layout.layers();
        let mut doomed = Doomed::default();
        for entry in std::fs::read_dir(&dir).map_err(|e| ImageError::store("reading", &dir, e))? {
            let entry = entry.map_err(|e| ImageError::store("reading", &dir, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(digest) = Digest::parse(&format!("sha256:{name}")) else { continue };
            if needed.contains(name.as_str()) || self.leases.count(digest.as_str()) > 0 {
                continue;
            }
            doomed.bytes += catalog::load_meta(&self.layout, &digest).ok().flatten().map_or(0, |m| m.bytes);
            let target = self.layout.new_staging("removed");
            std::fs::rename(entry.path(), &target)
                .map_err(|e| ImageError::store("moving away", entry.path(), e))?;
            doomed.trees.push(target);
            doomed.layers += 1;
        }
        if doomed.layers > 0 {
            doomed.trees.extend(self.detach_views()?);
        }
        Ok(doomed)
    }

    /// The slow part goes on after the answer: it is out of sight already, and a disk may need minutes for it.
    /// What a crash leaves of it, the next start removes.
    pub(crate) fn delete(&self, trees: Vec<PathBuf>) {
        if trees.is_empty() {
            return;
        }
        let (config, sweepers) = (self.config.clone(), self.sweepers.clone());
        tokio::spawn(async move {
            // Nobody closes it; a disk gains nothing from a hundred processes that remove at once.
            let _turn = sweepers.acquire_owned().await;
            for tree in trees {
                if let Err(error) = helper::remove_tree(&config, &tree).await {
                    tracing::warn!(path = %tree.display(), %error, "cannot remove; the next start will try again");
                }
            }
        });
    }
}

/// The names to remove and the digest they stand for: a reference in any spelling, or a digest with all its names.
fn find(tags: &Tags, reference: &str) -> Option<(BTreeSet<String>, Digest)> {
    if let Ok(digest) = Digest::parse(reference) {
        let names = tags.iter().filter(|(_, t)| t.digest == digest).map(|(n, _)| n.clone()).collect();
        return Some((names, digest));
    }
    let canonical = ImageRef::parse(reference).ok()?.canonical();
    tags.get(&canonical).map(|tag| (BTreeSet::from([canonical.clone()]), tag.digest.clone()))
}
