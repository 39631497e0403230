//! The pod's network namespace: loopback, and on it the registry and the git server of the tests.

use std::{fs::File, os::fd::AsRawFd, path::Path};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{fixture, git::GitServer, process::sh, registry::Registry};

pub struct Servers {
    pub registry: Registry,
    /// There until it is dropped.
    git: Option<GitServer>,
    git_port: u16,
    namespace: File,
}

impl Servers {
    /// Starts both in a new network namespace.
    pub fn start(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        // A thread has a network namespace of its own, which its children and its sockets keep.
        let started = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("making the pod's network namespace")?;
            sh("ip", &["link", "set", "lo", "up"])?;
            let namespace =
                File::open("/proc/thread-self/ns/net").context("opening the pod's network namespace")?;
            let registry = fixture::registry(&dir.join("registry"))?;
            let git = fixture::repositories(&dir.join("git"))?;
            Ok(Self { registry, git_port: git.port(), git: Some(git), namespace })
        });
        started.join().map_err(|_| anyhow!("the thread that starts the pod's servers has failed"))?
    }

    pub fn git_port(&self) -> u16 {
        self.git_port
    }

    /// A path by which a runtime finds the namespace.
    pub fn namespace(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

impl Drop for Servers {
    /// The git server ends itself with a connection to its own port, which is to be reached from its namespace only.
    fn drop(&mut self) {
        let git = self.git.take();
        let Ok(namespace) = self.namespace.try_clone() else { return std::mem::forget(git) };
        let ended = std::thread::spawn(move || match setns(&namespace, CloneFlags::CLONE_NEWNET) {
            Ok(()) => drop(git),
            // Left to the end of this process: dropped here it would wait for ever.
            Err(_) => std::mem::forget(git),
        });
        let _ = ended.join();
    }
}
