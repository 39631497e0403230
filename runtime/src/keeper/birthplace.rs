//! The container's first process is born in its cgroup, because the keeper that forks it is there.
//!
//! libcontainer moves it there all the same, and the kernel takes a grace period (5 to 20 ms) for a move that changes
//! nothing. So what it writes goes to a file of ours.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::outer::{OuterError, bind_file};

const UNIFIED: &str = "/sys/fs/cgroup";

/// While it lives, `cgroup.procs` of one cgroup is a file without effect, for this process and its children.
pub(super) struct Birthplace(PathBuf);

impl Birthplace {
    /// `cgroup` is below [`UNIFIED`]; the file is made in `dir`.
    pub(super) fn shield(cgroup: &Path, dir: &Path) -> Result<Self, OuterError> {
        let sink = dir.join("cgroup.procs");
        File::create(&sink).map_err(|source| OuterError::Make { path: sink.clone(), source })?;
        let below = cgroup.strip_prefix("/").unwrap_or(cgroup);
        let procs = Path::new(UNIFIED).join(below).join("cgroup.procs");
        bind_file(&sink, &procs)?;
        Ok(Self(procs))
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        if let Err(error) = sys_mount::unmount(&self.0, sys_mount::UnmountFlags::DETACH) {
            tracing::warn!(path = %self.0.display(), %error, "uncovering the container's cgroup");
        }
    }
}
