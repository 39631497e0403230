//! The sandbox's part of the cgroup tree, where root may make more: nested containers and systemd do.
//!
//! ```text
//!  /              the sandbox's limits; no process, so that controllers can be passed on
//!  ├─ init        the agent and what it starts
//!  ├─ payload     a system init that is the main process, with its slices
//!  └─ …           what engines make
//! ```
//! Moving a process waits for the kernel (10 ms), so it is done beside the start; who needs it done calls [`settle`] too.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

const ROOT: &str = "/sys/fs/cgroup";
/// A process that forks while it is moved is found in the next round.
const ROUNDS: usize = 200;
const PAUSE: Duration = Duration::from_millis(5);
/// Deeper trees than the kernel lets the sandbox make.
const MAX_DEPTH: usize = 32;

#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct CgroupError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError { what, path, source }
}

static SETTLED: Mutex<bool> = Mutex::new(false);

/// Leaves the root of the tree to controllers. True where the sandbox has a tree of its own.
pub fn settle() -> Result<bool, CgroupError> {
    let mut settled = SETTLED.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(ROOT);
    if *settled || !is_ours(root) {
        return Ok(*settled);
    }
    let init = make("init")?;
    let procs = root.join("cgroup.procs");
    for _ in 0..ROUNDS {
        let text = fs::read_to_string(&procs).map_err(failed("reading", &procs))?;
        if text.is_empty() {
            break;
        }
        // One of the outside is 0 here: the keeper, which is about to leave.
        let (theirs, ours): (Vec<_>, Vec<_>) = text.lines().partition(|pid| *pid == "0");
        for pid in &ours {
            enter(&init, pid)?;
        }
        if !theirs.is_empty() && ours.is_empty() {
            // No event tells of it: `populated` in cgroup.events counts the cgroups below, where we are.
            std::thread::sleep(PAUSE);
        }
    }
    pass_on_controllers(root);
    *settled = true;
    Ok(true)
}

fn enter(cgroup: &Path, pid: &str) -> Result<(), CgroupError> {
    match fs::write(cgroup.join("cgroup.procs"), pid) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => Err(failed("entering", cgroup)(error)),
        _ => Ok(()),
    }
}

/// A cgroup namespace's root that belongs to us: never that of the machine.
fn is_ours(root: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let owned = fs::metadata(root.join("cgroup.procs")).is_ok_and(|found| found.uid() == 0);
    own.lines().any(|line| line == "0::/") && owned && root.join("cgroup.events").exists()
}

/// One by one: what cannot be passed on is missing below, and whoever needs it there says so.
fn pass_on_controllers(root: &Path) {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for name in controllers.split_whitespace() {
        let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{name}"));
    }
}

fn make(name: &str) -> Result<PathBuf, CgroupError> {
    let path = Path::new(ROOT).join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("making", &path)(error)),
        _ => Ok(path),
    }
}

/// A new leaf's `cgroup.procs`, for a child to write itself into. None where the sandbox has no tree of its own.
pub fn leaf(name: &str) -> Result<Option<OwnedFd>, CgroupError> {
    if !settle()? {
        return Ok(None);
    }
    let procs = make(name)?.join("cgroup.procs");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(&procs, flags, Mode::empty()).map(Some).map_err(|e| failed("opening", &procs)(e.into()))
}

/// Removes what was made in the tree and holds no process any more: outside, its ids have no power.
pub fn remove_made() {
    if *SETTLED.lock().unwrap_or_else(PoisonError::into_inner) {
        remove_below(Path::new(ROOT), 0);
    }
}

fn remove_below(dir: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path(), depth + 1);
            // Ours stays: we are in it.
            let _ = fs::remove_dir(entry.path());
        }
    }
}
