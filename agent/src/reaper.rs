//! The one place that waits for children.
//!
//! PID 1 inherits every orphan of the sandbox, so somebody must call `waitpid(-1)`, and then nobody else may
//! call `waitpid` at all. Spawning and reaping hold the same lock: a child that ends before its waiter is
//! registered is still found.

use std::collections::HashMap;
use std::io;
use std::process::Child;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::sync::watch;

/// So many ended children are collected before anything else of the agent's has its turn.
const ROUND: usize = 1_024;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// As a shell reports it: the code, or 128 + signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// As task failures report it: the code, or -1.
    pub fn task_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(_) => -1,
        }
    }

    pub fn signal(self) -> i32 {
        match self {
            Exit::Code(_) => 0,
            Exit::Signal(signal) => signal,
        }
    }

    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit code {code}"),
            Exit::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// A child that we started; also the leader of its own session.
#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    exit: watch::Receiver<Option<Exit>>,
    killed: Arc<OnceLock<String>>,
}

impl Process {
    /// Waits for its end; any number of callers may.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(value) => value.unwrap_or(Exit::Code(0)),
            // The reaper lives as long as PID 1; without it nothing can be known.
            Err(_) => Exit::Signal(libc::SIGKILL),
        }
    }

    /// What it was when SIGKILL ended it, as `NAME (pid N)`; empty otherwise, and while it lives.
    pub fn killed(&self) -> &str {
        self.killed.get().map_or("", String::as_str)
    }

    pub fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }
}

struct Waiter {
    exit: watch::Sender<Option<Exit>>,
    killed: Arc<OnceLock<String>>,
}

/// See the module.
pub struct Reaper {
    waiters: Mutex<HashMap<i32, Waiter>>,
    childless: watch::Sender<bool>,
}

impl Reaper {
    pub fn new() -> Self {
        Self { waiters: Mutex::default(), childless: watch::Sender::new(true) }
    }

    /// Starts a child by `start` and registers it before it can be reaped.
    pub fn start(&self, start: impl FnOnce() -> io::Result<Child>) -> io::Result<Process> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let child = start()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let (sender, exit) = watch::channel(None);
        let killed = Arc::default();
        waiters.insert(pid, Waiter { exit: sender, killed: Arc::clone(&killed) });
        self.childless.send_replace(false);
        Ok(Process { pid, exit, killed })
    }

    /// Collects every child that has ended, however many follow.
    async fn reap_all(&self) {
        while self.reap() {
            tokio::task::yield_now().await;
        }
    }

    /// Collects children that have ended; true if there may be more.
    fn reap(&self) -> bool {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..ROUND {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            let victim = next_victim(&waiters);
            let (pid, exit) = match waitpid(None::<Pid>, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => {
                    self.childless.send_if_modified(|none| std::mem::replace(none, false));
                    return false;
                }
                Ok(_) => continue,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => {
                    self.childless.send_if_modified(|none| !std::mem::replace(none, true));
                    return false;
                }
                // A real-time signal: nix has no name for it. The child is reaped all the same.
                Err(Errno::EINVAL) => continue,
                Err(error) => {
                    tracing::error!(%error, "waiting for children failed");
                    return false;
                }
            };
            if let Some(waiter) = waiters.remove(&pid.as_raw()) {
                if let Some((victim, shown)) = victim
                    && victim == pid.as_raw()
                    && exit == Exit::Signal(libc::SIGKILL)
                {
                    let _ = waiter.killed.set(shown);
                }
                waiter.exit.send_replace(Some(exit));
            }
        }
        true
    }

    /// Reaps on every SIGCHLD. Install it before the first child.
    pub async fn run(&self, mut signals: tokio::signal::unix::Signal) {
        loop {
            self.reap_all().await;
            if signals.recv().await.is_none() {
                return;
            }
        }
    }

    /// Waits until there is no child left, orphans included.
    pub async fn childless(&self) {
        self.reap_all().await;
        let mut childless = self.childless.subscribe();
        let _ = childless.wait_for(|none| *none).await;
    }
}

/// The child that will be reaped next, if SIGKILL ended it and somebody waits for it: its name is gone once it is reaped. The
/// name is what the program was in the end, not what was started; the program chooses it.
fn next_victim(waiters: &HashMap<i32, Waiter>) -> Option<(i32, String)> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    let Ok(WaitStatus::Signaled(pid, Signal::SIGKILL, _)) = waitid(Id::All, flags) else { return None };
    let pid = pid.as_raw();
    waiters.get(&pid)?;
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name: String = String::from_utf8_lossy(&name)
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    Some((pid, format!("{name} (pid {pid})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_follow_the_shell_and_the_task_convention() {
        assert_eq!(Exit::Signal(9).shell_code(), 137);
        assert_eq!(Exit::Signal(9).task_code(), -1);
        assert_eq!(Exit::Code(13).task_code(), 13);
        assert_eq!(Exit::Signal(15).to_string(), "signal 15 (SIGTERM)");
    }
}
