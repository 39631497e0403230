//! The node's directories: private, and used by one supervisor at a time.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::context::{Context, Dirs};

/// The directories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirsError {
    /// A file operation failed.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody else made it.
    #[error("{} belongs to user {owner}, not to you: remove it, or choose others with --run-dir and --state-dir", path.display())]
    Stranger {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another supervisor uses it.
    #[error("another supervisor is using {}: stop it, or choose others with --state-dir and --run-dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// Holds the directories for this process.
pub struct Held {
    _locks: [File; 2],
}

/// Makes the directories, mode 0700, and locks them.
pub fn hold(dirs: &Dirs) -> Result<Held, DirsError> {
    for dir in [&dirs.state, &dirs.run] {
        let fail = |doing| move |source| DirsError::File { doing, path: dir.clone(), source };
        Context::make_dir(dir).map_err(fail("making the directory"))?;
        let meta = fs::symlink_metadata(dir).map_err(fail("looking at the directory"))?;
        if meta.uid() != rustix::process::getuid().as_raw() || !meta.is_dir() {
            return Err(DirsError::Stranger { path: dir.clone(), owner: meta.uid() });
        }
        if meta.mode() & 0o077 != 0 {
            let private = fs::Permissions::from_mode(0o700);
            fs::set_permissions(dir, private).map_err(fail("protecting the directory"))?;
        }
    }
    Ok(Held { _locks: [lock(&dirs.state)?, lock(&dirs.run)?] })
}

fn lock(dir: &Path) -> Result<File, DirsError> {
    let path = dir.join("supervisor.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| DirsError::File { doing: "opening the lock", path: path.clone(), source })?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| DirsError::Locked { path: dir.to_owned() })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_second_supervisor_is_refused_and_the_directories_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs { state: dir.path().join("a/state"), run: dir.path().join("run") };
        let held = hold(&dirs).unwrap();
        assert_eq!(fs::metadata(&dirs.state).unwrap().mode() & 0o777, 0o700);
        assert!(matches!(hold(&dirs), Err(DirsError::Locked { .. })));
        drop(held);
        hold(&dirs).unwrap();
    }
}
