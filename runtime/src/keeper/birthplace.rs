//! The container's first process is born in its cgroup, because the keeper that forks it is there.
//!
//! libcontainer moves it there all the same, and the kernel takes a grace period (5 to 20 ms) for a move that changes
//! nothing. When a container cannot be made, libcontainer kills everything in its cgroup: here that is the keeper, before
//! it could say why. So what libcontainer writes goes to files of ours.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use super::outer::{OuterError, bind_file};

const UNIFIED: &str = "/sys/fs/cgroup";
const SHIELDED: [&str; 2] = ["cgroup.procs", "cgroup.kill"];

/// While it lives, `cgroup.procs` and `cgroup.kill` of one cgroup are files without effect, for this process and its
/// children.
pub(super) struct Birthplace(Vec<PathBuf>);

impl Birthplace {
    /// `cgroup` is below [`UNIFIED`]; the files are made in `dir`.
    pub(super) fn shield(cgroup: &Path, dir: &Path) -> Result<Self, OuterError> {
        let below = cgroup.strip_prefix("/").unwrap_or(cgroup);
        let mut shield = Self(Vec::new());
        for name in SHIELDED {
            let file = Path::new(UNIFIED).join(below).join(name);
            // Kernels before 5.14 have no `cgroup.kill`.
            if file.exists() {
                let sink = dir.join(name);
                File::create(&sink).map_err(|source| OuterError::Make { path: sink.clone(), source })?;
                bind_file(&sink, &file)?;
                shield.0.push(file);
            }
        }
        Ok(shield)
    }
}

impl Drop for Birthplace {
    fn drop(&mut self) {
        for file in &self.0 {
            if let Err(error) = sys_mount::unmount(file, sys_mount::UnmountFlags::DETACH) {
                tracing::warn!(path = %file.display(), %error, "uncovering the container's cgroup");
            }
        }
    }
}
