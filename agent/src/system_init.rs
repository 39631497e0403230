//! A system init as the main process: it is PID 1 of a pid namespace of its own, and what is started later joins it.
//!
//! ```text
//!  agent (PID 1 of the sandbox) ─┬─ systemd (PID 1 of its own pid namespace, own /proc, cgroup /payload)
//!                                └─ commands, tasks, terminals: children of the agent, in systemd's namespaces
//! ```
//! Only one process can be PID 1, and the sandbox's is the agent. Commands join because systemd, as many services, does
//! not talk to processes that it cannot see. See docs/decisions/0032-system-init.md.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, setns, unshare};

use crate::reaper::Process;
use crate::sys;

/// The namespaces of a running system init.
#[derive(Debug)]
pub struct SystemInit {
    process: Process,
    pid_namespace: OwnedFd,
    pub mount_namespace: OwnedFd,
}

#[derive(Debug, thiserror::Error)]
pub enum SystemInitError {
    #[error("opening {path}: {source}")]
    Open { path: String, source: io::Error },
}

static CURRENT: Mutex<Option<Arc<SystemInit>>> = Mutex::new(None);

/// Whether a program has to be PID 1, by the names that engines go by.
pub fn is_one(argv: &[String]) -> bool {
    let Some(program) = argv.first() else { return false };
    let name = Path::new(program).file_name().and_then(|name| name.to_str());
    program.starts_with('/')
        && (name == Some("systemd")
            || ["/sbin/init", "/usr/sbin/init", "/usr/local/sbin/init", "/init"].contains(&program.as_str()))
}

/// The one that runs, if any does.
pub fn current() -> Option<Arc<SystemInit>> {
    lock().clone().filter(|init| init.process.exited().is_none())
}

/// Takes note of a process that was started by [`in_new_namespace`]; it has executed its program.
pub fn adopt(process: &Process) -> Result<(), SystemInitError> {
    let open = |kind: &str| {
        let path = format!("/proc/{}/ns/{kind}", process.pid);
        File::open(&path).map(OwnedFd::from).map_err(|source| SystemInitError::Open { path, source })
    };
    let init =
        SystemInit { process: process.clone(), pid_namespace: open("pid")?, mount_namespace: open("mnt")? };
    *lock() = Some(Arc::new(init));
    Ok(())
}

/// Asks it to shut the system down in order, as engines do.
pub async fn shut_down(grace: std::time::Duration) {
    let Some(init) = current() else { return };
    if sys::ask_to_halt(init.process.pid).is_ok() {
        let _ = tokio::time::timeout(grace, init.process.wait()).await;
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<Arc<SystemInit>>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `start`, the first child of which becomes PID 1 of a new pid namespace.
pub fn in_new_namespace<T>(start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    with_children_elsewhere(|| unshare(CloneFlags::CLONE_NEWPID), start)
}

impl SystemInit {
    /// Runs `start`, whose children are born in this init's pid namespace.
    pub fn within<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        with_children_elsewhere(|| setns(&self.pid_namespace, CloneFlags::CLONE_NEWPID), start)
    }
}

/// The namespace of future children is this thread's own matter.
fn with_children_elsewhere<T>(
    leave: impl FnOnce() -> nix::Result<()>,
    start: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let home = File::open("/proc/thread-self/ns/pid")?;
    leave()?;
    let started = start();
    if let Err(error) = setns(&home, CloneFlags::CLONE_NEWPID) {
        tracing::error!(%error, "children cannot be started in the sandbox's pid namespace any more");
    }
    started
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inits_are_known_by_their_paths() {
        let one = |words: &[&str]| is_one(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert!(one(&["/sbin/init"]) && one(&["/lib/systemd/systemd", "--system"]));
        assert!(!one(&["systemd"]) && !one(&["/usr/bin/tini", "--", "/sbin/init"]) && !one(&[]));
        assert!(!one(&["/usr/bin/systemctl"]) && !one(&["/opt/init"]));
    }
}
