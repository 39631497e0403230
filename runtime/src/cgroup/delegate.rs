//! The sandbox's own part of the unified hierarchy: its root may make cgroups below `box`, for nested containers and for
//! systemd, but not touch `box`'s limits, which stay the supervisor's.
//!
//! `box` keeps our group, so that what lies right below it can be removed by us. What lies deeper belongs to ids that
//! the supervisor's user has no power over: the agent removes it when it shuts down, and after a sandbox that was killed
//! a keeper is started just for that (`keeper/sweep.rs`).

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    time::Duration,
};

use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};

use super::{
    CgroupError, CgroupPlan,
    tree::{Leaf, below, deadline, remove_tree},
};

/// What a delegatee must be able to write, as in `/sys/kernel/cgroup/delegate`; the rest are limits.
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

/// Each takes memory of the kernel's. A pod of two containers has three, a booted systemd some forty.
const BOUNDS: [(&str, &str); 2] = [("cgroup.max.descendants", "2048"), ("cgroup.max.depth", "24")];

impl CgroupPlan {
    /// Gives `box` of the unified hierarchy to the sandbox's root. To be called by the root of the outer user namespace,
    /// whose group it keeps.
    pub fn delegate(&self, (uid, gid): (Uid, Gid)) -> Result<(), CgroupError> {
        let Some(own) = self.unified_box() else { return Ok(()) };
        let failed = |path: &PathBuf, source| CgroupError::Delegate { path: path.clone(), source };
        for (file, bound) in BOUNDS {
            let path = own.join(file);
            fs::write(&path, bound).map_err(|source| failed(&path, source))?;
        }
        fs::set_permissions(&own, fs::Permissions::from_mode(0o775)).map_err(|e| failed(&own, e))?;
        let give = |path: &PathBuf, gid| {
            chownat(CWD, path, Some(uid), gid, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed(path, e.into()))
        };
        DELEGATED.iter().try_for_each(|file| give(&own.join(file), Some(gid)))?;
        give(&own, None)
    }

    /// Removes what was made below `box`, which must hold no process any more.
    pub fn remove_delegated(&self, timeout: Duration) -> Result<(), CgroupError> {
        let Some(own) = self.unified_box() else { return Ok(()) };
        let deadline = deadline(timeout);
        let dirs = below(&own).map_err(|source| CgroupError::Remove { path: own, source })?;
        dirs.iter().try_for_each(|dir| remove_tree(dir, 0, deadline))
    }

    /// The host ids of the sandbox's root, if `box` was given to it.
    pub(crate) fn delegatee(&self) -> Option<(u32, u32)> {
        let found = fs::metadata(self.unified_box()?.join(DELEGATED[0])).ok()?;
        (found.uid() != nix::unistd::getuid().as_raw()).then(|| (found.uid(), found.gid()))
    }

    fn unified_box(&self) -> Option<PathBuf> {
        self.unified().map(|unified| self.dir(unified, Leaf::Box))
    }
}

impl CgroupError {
    /// Whether root of the ids that own it could remove it.
    pub(crate) fn is_denied_removal(&self) -> bool {
        matches!(self, Self::Remove { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}
