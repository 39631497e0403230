//! The directories of one workspace in every hierarchy: made, entered, killed, removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    probe::{Hierarchy, HierarchyKind},
    settle::pass_on,
};

/// The two leaves below a workspace's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// The outer container.
    Keeper,
    /// Everything inside: limits are here.
    Box,
}

impl Leaf {
    pub(super) fn name(self) -> &'static str {
        match self {
            Leaf::Keeper => "keeper",
            Leaf::Box => "box",
        }
    }
}

/// Where one workspace's cgroups are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    pub id: String,
    pub hierarchies: Vec<Hierarchy>,
    pub unified_mount: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("making cgroup {path}: {source}", path = path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("entering cgroup {path}: {source}", path = path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("killing cgroup {path}: {source}", path = path.display())]
    Kill { path: PathBuf, source: io::Error },
    #[error("removing cgroup {path}: {source}", path = path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error("giving cgroup {path} to the sandbox: {source}", path = path.display())]
    Delegate { path: PathBuf, source: io::Error },
    #[error("removing what the sandbox made below its cgroup: {0}")]
    Sweep(String),
}

impl CgroupPlan {
    /// A leaf's directory in one hierarchy.
    pub fn dir(&self, hierarchy: &Hierarchy, leaf: Leaf) -> PathBuf {
        hierarchy.base.join(&self.id).join(leaf.name())
    }

    /// The unified hierarchy's subtree, if it was delegated.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| matches!(h.kind, HierarchyKind::V2(_)))
    }

    /// Makes every directory, with the controllers of v2 enabled on the way down.
    pub fn create(&self) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let own = hierarchy.base.join(&self.id);
            make(&own)?;
            if let HierarchyKind::V2(controllers) = &hierarchy.kind {
                for dir in [&hierarchy.base, &own] {
                    pass_on(dir, controllers);
                }
            }
            for leaf in [Leaf::Keeper, Leaf::Box] {
                make(&self.dir(hierarchy, leaf))?;
            }
        }
        Ok(())
    }

    /// Ends every process in the sandbox at once, where the kernel can (v2 `cgroup.kill`). False when it cannot.
    pub fn kill(&self) -> Result<bool, CgroupError> {
        let Some(unified) = self.unified() else { return Ok(false) };
        let path = self.dir(unified, Leaf::Box).join("cgroup.kill");
        match fs::write(&path, "1") {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(CgroupError::Kill { path, source }),
        }
    }

    /// Removes every directory, the tenant's own below `box` included. Goes on after an error and tells the first.
    pub fn remove(&self, timeout: Duration) -> Result<(), CgroupError> {
        let deadline = deadline(timeout);
        let mut first = Ok(());
        for hierarchy in &self.hierarchies {
            let removed = remove_tree(&hierarchy.base.join(&self.id), 0, deadline);
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(CgroupError::Create { path: dir.to_owned(), source }),
        Ok(()) => Ok(()),
    }
}

/// Deeper trees than this are a tenant's mischief; their removal fails with the path.
const MAX_DEPTH: usize = 64;

/// A time limit's end.
pub(super) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout
}

/// The cgroups right below one; none if it is not there.
pub(super) fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(dirs.map(|entry| entry.path()).collect())
}

pub(super) fn remove_tree(dir: &Path, depth: usize, deadline: Instant) -> Result<(), CgroupError> {
    let error = |source| CgroupError::Remove { path: dir.to_owned(), source };
    if depth > MAX_DEPTH {
        return Err(error(io::Error::other("nested too deeply")));
    }
    for child in below(dir).map_err(error)? {
        remove_tree(&child, depth + 1, deadline)?;
    }
    loop {
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // The last process is dead but not yet gone from the kernel's count, for which there is no event on v1.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(e) => return Err(error(e)),
        }
    }
}
