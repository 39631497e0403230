//! The broker gives up what it does not need, before it hears the first byte of a tenant.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use tracing::warn;

use crate::dns::RESOLV_CONF;
use crate::seccomp;

/// The newest Landlock interface that is used where the kernel has it.
const LANDLOCK: ABI = ABI::V6;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfineError {
    #[error("setting no_new_privs: {0}")]
    NoNewPrivs(io::Error),
    #[error("dropping capabilities: {0}")]
    Capabilities(io::Error),
    #[error("making the process undumpable: {0}")]
    Undumpable(io::Error),
    #[error("building the landlock ruleset: {0}")]
    Landlock(#[from] RulesetError),
    #[error("opening {path} for the landlock ruleset: {source}")]
    LandlockPath { path: PathBuf, source: landlock::PathFdError },
    #[error("loading the system call filter: {0}")]
    Seccomp(#[from] seccomp::SeccompError),
}

/// Raises the soft limit of descriptors to the hard one; returns what holds now.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "raising the limit of open files");
            limit.current
        }
    }
}

/// To be called with one thread: later ones inherit it.
pub(crate) fn confine(socket_folder: &Path) -> Result<(), ConfineError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| ConfineError::NoNewPrivs(error.into()))?;
    drop_capabilities().map_err(ConfineError::Capabilities)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| ConfineError::Undumpable(error.into()))?;
    restrict_files(socket_folder)?;
    seccomp::load()?;
    Ok(())
}

fn drop_capabilities() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    Ok(())
}

/// Reads the folder of `resolv.conf`, since that file is replaced rather than changed, and removes its own socket.
fn restrict_files(socket_folder: &Path) -> Result<(), ConfineError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    let mut allow = |path: &Path, access: BitFlags<AccessFs>| -> Result<(), ConfineError> {
        let opened = PathFd::new(path)
            .map_err(|source| ConfineError::LandlockPath { path: path.to_owned(), source })?;
        (&mut ruleset).add_rule(PathBeneath::new(opened, access))?;
        Ok(())
    };
    allow(socket_folder, AccessFs::RemoveFile.into())?;
    // A static C library gives the random number crates no getrandom: they read the device.
    for device in ["/dev/urandom", "/dev/random"] {
        if Path::new(device).exists() {
            allow(Path::new(device), AccessFs::ReadFile.into())?;
        }
    }
    for folder in resolv_conf_folders() {
        allow(&folder, AccessFs::ReadFile.into())?;
    }
    let status = ruleset.restrict_self()?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        warn!(status = ?status.ruleset, "this kernel's landlock does not cover everything the broker gives up");
    }
    Ok(())
}

fn resolv_conf_folders() -> Vec<PathBuf> {
    let path = Path::new(RESOLV_CONF);
    let resolved = std::fs::canonicalize(path).ok();
    let mut folders: Vec<PathBuf> = [Some(path), resolved.as_deref()]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .map(Path::to_owned)
        .collect();
    folders.dedup();
    folders.retain(|folder| folder.is_dir());
    folders
}
