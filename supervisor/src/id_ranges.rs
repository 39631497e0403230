//! The range of subordinate ids that a run gets, and bringing files into it.
//!
//! ```text
//!  volumes that others use now ─▶ their range · else that of the volumes' or the workspace's files, if nobody runs there
//!     └─ else any ─▶ claim ─▶ files that belong to another range are given to this one
//! ```
//! Workspaces that write to one volume at the same time share a range, for its files have one owner each. All others
//! share one only when there are more of them than ranges.

use std::{path::Path, sync::Arc};

use cordium_runtime::{IdMap, Ranges};
use tokio::sync::Mutex;

use crate::{
    context::Context,
    runtime::RuntimeFailure,
    volumes::{VolumeMount, Volumes},
};

/// The directories of a workspace's storage that are its sandbox root's from the first start on.
const OWNED: [&str; 3] = ["upper", "workspace", "containers"];

/// Who gets which range.
pub struct IdRanges {
    ranges: Ranges,
    /// Of runs with volumes one at a time decides, and brings files over.
    turn: Mutex<()>,
}

/// What a run got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The range.
    pub ids: IdMap,
    /// That it is not the run's own, in words.
    pub warning: Option<String>,
}

/// A run got none.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// Two shared volumes cannot be had together.
    #[error(
        "volumes {first:?} and {second:?} are in use by workspaces that run with different ids: stop those of one of them"
    )]
    Apart {
        /// One volume.
        first: String,
        /// The other.
        second: String,
    },
    /// The workspace's files.
    #[error("giving the workspace's files to the ids of this run: {0}")]
    Storage(RuntimeFailure),
    /// A volume's files.
    #[error("giving the files of volume {volume:?} to the ids of this run: {source}")]
    Volume {
        /// Its name.
        volume: String,
        /// What went wrong.
        source: RuntimeFailure,
    },
}

impl GrantError {
    /// The name of the volume that is the reason.
    pub fn volume(&self) -> Option<&str> {
        match self {
            Self::Apart { second: name, .. } | Self::Volume { volume: name, .. } => Some(name),
            Self::Storage(_) => None,
        }
    }
}

/// What is known of one volume of a run.
struct Known<'a> {
    volume: &'a VolumeMount,
    /// The range of those that use it now.
    used: Option<IdMap>,
    /// The range of its files.
    files: Option<IdMap>,
}

impl IdRanges {
    /// Over the ranges of the node.
    pub fn new(ranges: Ranges) -> Self {
        Self { ranges, turn: Mutex::default() }
    }

    /// Notes at the start of the supervisor to which range the files of a workspace belong, and that it runs.
    pub fn adopt(&self, workspace: &str, storage: &Path, runs: bool) {
        let Some(ids) = self.of_storage(storage) else { return };
        if runs {
            self.ranges.claim(workspace, Some(ids));
        } else {
            self.ranges.note_files(workspace, &ids);
        }
    }

    /// Takes a range for a run, and gives it the files of its storage and volumes. It is the run's until `release`.
    pub async fn grant(
        &self,
        workspace: &str,
        volumes: &[VolumeMount],
        context: &Arc<Context>,
    ) -> Result<Granted, GrantError> {
        let _turn = if volumes.is_empty() { None } else { Some(self.turn.lock().await) };
        let storage = context.dirs.volume(workspace);
        let own = self.of_storage(&storage);
        let known = self.look(workspace, volumes, &context.volumes);
        let bound = self.bound(workspace, own, &known)?;
        let ids = self.ranges.claim(workspace, bound);
        if own.is_some_and(|own| own != ids) || is_unfinished(&storage) {
            context.runtime.give_tree(&storage, &ids).await.map_err(GrantError::Storage)?;
        }
        for known in known {
            let tree = context.volumes.tree(&known.volume.uid);
            if known.files.is_some_and(|files| files != ids) || is_unfinished(&tree) {
                let fail = |source| GrantError::Volume { volume: known.volume.name.clone(), source };
                context.runtime.give_tree(&tree, &ids).await.map_err(fail)?;
            }
        }
        Ok(Granted { ids, warning: self.warning(workspace, &ids) })
    }

    /// The run has ended.
    pub fn release(&self, workspace: &str) {
        self.ranges.release(workspace);
    }

    /// Its storage is gone.
    pub fn forget(&self, workspace: &str) {
        self.ranges.forget_files(workspace);
    }

    fn of_storage(&self, storage: &Path) -> Option<IdMap> {
        OWNED.iter().find_map(|name| self.of(&storage.join(name)))
    }

    fn of(&self, path: &Path) -> Option<IdMap> {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::symlink_metadata(path).ok().and_then(|meta| self.ranges.of_owner(meta.uid()))
    }

    fn look<'a>(&self, workspace: &str, mounts: &'a [VolumeMount], volumes: &Volumes) -> Vec<Known<'a>> {
        let known = |volume: &'a VolumeMount| Known {
            volume,
            used: volumes
                .others(&volume.uid, workspace)
                .iter()
                .find_map(|other| self.ranges.claimed_by(other)),
            files: self.of(&volumes.data(&volume.uid)),
        };
        mounts.iter().map(known).collect()
    }

    /// The range that the run must or had better have.
    fn bound(
        &self,
        workspace: &str,
        own: Option<IdMap>,
        known: &[Known<'_>],
    ) -> Result<Option<IdMap>, GrantError> {
        let mut used = known.iter().filter_map(|known| Some((known.used?, known)));
        if let Some((ids, first)) = used.next() {
            return match used.find(|(other, _)| *other != ids) {
                Some((_, second)) => Err(GrantError::Apart {
                    first: first.volume.name.clone(),
                    second: second.volume.name.clone(),
                }),
                None => Ok(Some(ids)),
            };
        }
        let mut homes = known.iter().filter_map(|known| known.files).chain(own);
        let alone = |ids: &IdMap| self.ranges.others_in(ids, workspace).is_empty();
        let best = homes.clone().find(alone);
        // Where all are taken, moving files would gain nothing.
        Ok(best.or_else(|| if self.ranges.has_free() { None } else { homes.next() }))
    }

    fn warning(&self, workspace: &str, ids: &IdMap) -> Option<String> {
        let all = self.ranges.all().len();
        let others = self.ranges.others_in(ids, workspace).len();
        // Of a single range the node's own warnings tell.
        (all > 1 && others > 0).then(|| {
            format!(
                "it shares its range of ids on the node with {others} other workspaces: they use a volume together, or all {all} \
                 ranges are taken"
            )
        })
    }
}

/// Its files were being given to another range when the supervisor ended.
fn is_unfinished(tree: &Path) -> bool {
    std::fs::symlink_metadata(tree.join(cordium_image::GIVING)).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cordium_runtime::IdRange;

    use super::*;

    fn ids(index: u32) -> IdMap {
        let range = IdRange { host_start: 100_000 + index * 65_536, count: 65_536 };
        IdMap { uid: range, gid: range }
    }

    fn ranges(count: u32) -> IdRanges {
        IdRanges::new(Ranges::new(ids(0), (1..count).map(ids)))
    }

    fn mount(name: &str) -> VolumeMount {
        VolumeMount {
            uid: format!("{name}-uid"),
            name: name.to_owned(),
            exclusive: false,
            target: "/data".into(),
            read_only: false,
        }
    }

    fn known(volume: &VolumeMount, used: Option<u32>, files: Option<u32>) -> Known<'_> {
        Known { volume, used: used.map(ids), files: files.map(ids) }
    }

    #[test]
    fn who_shares_a_volume_shares_a_range() {
        let ranges = ranges(4);
        let (a, b) = (mount("a"), mount("b"));
        let bound = |own, known: &[Known<'_>]| ranges.bound("w", own, known);
        assert_eq!(bound(None, &[]).unwrap(), None);
        assert_eq!(bound(Some(ids(1)), &[known(&a, Some(3), Some(3))]).unwrap(), Some(ids(3)));
        assert_eq!(bound(None, &[known(&a, Some(3), None), known(&b, Some(3), None)]).unwrap(), Some(ids(3)));
        let error = bound(None, &[known(&a, Some(3), None), known(&b, Some(2), None)]).unwrap_err();
        assert!(error.to_string().contains("\"a\" and \"b\"") && error.volume() == Some("b"), "{error}");
    }

    #[test]
    fn files_stay_where_they_are_unless_somebody_else_runs_there() {
        let ranges = ranges(3);
        let a = mount("a");
        let bound = |own, known: &[Known<'_>]| ranges.bound("w", own, known).unwrap();
        assert_eq!(bound(Some(ids(1)), &[]), Some(ids(1)));
        assert_eq!(bound(Some(ids(1)), &[known(&a, None, Some(2))]), Some(ids(2)));
        ranges.ranges.claim("x", Some(ids(2)));
        assert_eq!(bound(Some(ids(1)), &[known(&a, None, Some(2))]), Some(ids(1)));
        ranges.ranges.claim("y", Some(ids(1)));
        assert_eq!(bound(Some(ids(1)), &[known(&a, None, Some(2))]), None);
        ranges.ranges.claim("z", Some(ids(0)));
        assert_eq!(bound(Some(ids(1)), &[]), Some(ids(1)), "nothing is free");
        assert_eq!(bound(None, &[]), None);
    }

    #[test]
    fn sharing_is_told() {
        let many = ranges(2);
        many.ranges.claim("a", Some(ids(0)));
        assert_eq!(many.warning("a", &ids(0)), None);
        many.ranges.claim("b", Some(ids(0)));
        assert!(many.warning("b", &ids(0)).unwrap().contains("with 1 other workspaces"));
        let one = ranges(1);
        one.ranges.claim("a", None);
        one.ranges.claim("b", None);
        assert_eq!(one.warning("b", &ids(0)), None);
    }

    #[test]
    fn storage_tells_its_range_by_its_owner() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().unwrap();
        let uid = std::fs::metadata(dir.path()).unwrap().uid();
        let own = IdRange { host_start: uid, count: 65_536 };
        let ranges = IdRanges::new(Ranges::new(ids(9), [IdMap { uid: own, gid: own }]));
        assert_eq!(ranges.of_storage(dir.path()), None);
        std::fs::create_dir(dir.path().join("workspace")).unwrap();
        ranges.adopt("w", dir.path(), true);
        assert_eq!(ranges.ranges.claimed_by("w"), Some(IdMap { uid: own, gid: own }));
        ranges.release("w");
        assert_eq!(ranges.ranges.claimed_by("w"), None);
    }
}
