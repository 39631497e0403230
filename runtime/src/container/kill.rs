//! A signal for every process of a container, also for those that are made meanwhile.

use std::{fs, io, path::PathBuf, time::Duration};

use libcgroups::common::{CgroupManager, FreezerState};
use libcontainer::container::ContainerStatus;
use nix::{
    errno::Errno,
    sys::signal::{self, Signal},
    unistd::getpid,
};

use super::{
    cgroups::{directories, members},
    error::{ContainerError, chain},
    store::OpenContainer,
};

/// How often what was killed is looked for again: five seconds in all.
const ROUNDS: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

impl OpenContainer {
    /// A process that forks is faster than a list of processes: they are frozen while they are signalled, and SIGKILL is
    /// repeated until nobody is left.
    pub(super) fn kill_all(&self, signal: Signal) -> Result<(), ContainerError> {
        let fail = self.act("kill --all");
        let dirs = directories(&self.cgroups_path()?).map_err(|e| fail(&e))?;
        if signal != Signal::SIGKILL {
            return self.signal_all(&dirs, signal).map_err(|e| fail(&e));
        }
        for _ in 0..ROUNDS {
            if members(&dirs).map_err(|e| fail(&e))?.is_empty() {
                return Ok(());
            }
            if !kill_at_once(&dirs).map_err(|e| fail(&e))? {
                self.signal_all(&dirs, signal).map_err(|e| fail(&e))?;
            }
            std::thread::sleep(PAUSE);
        }
        let left = members(&dirs).map_err(|e| fail(&e))?.len();
        if left == 0 { Ok(()) } else { Err(fail(&io::Error::other(format!("{left} processes do not end")))) }
    }

    fn signal_all(&self, dirs: &[PathBuf], signal: Signal) -> io::Result<()> {
        let paused = self.inner.status() == ContainerStatus::Paused;
        if !paused {
            self.freeze(FreezerState::Frozen);
        }
        let sent = members(dirs).and_then(|pids| {
            // Whoever calls from inside the container's cgroups has still to thaw them.
            for pid in pids.into_iter().filter(|pid| *pid != getpid()) {
                match signal::kill(pid, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        });
        // Who is paused stays so; but a frozen process dies only when it thaws.
        if !paused || signal == Signal::SIGKILL {
            self.freeze(FreezerState::Thawed);
        }
        sent
    }

    /// Where there is no freezer SIGKILL is still repeated.
    fn freeze(&self, state: FreezerState) {
        let changed = self.cgroups().and_then(|manager| {
            let fail = self.act("changing the freezer");
            manager.freeze(state).map_err(|e| fail(&e))
        });
        if let Err(error) = changed {
            tracing::debug!("{}", chain(&error));
        }
    }
}

/// The unified hierarchy kills a whole cgroup, forks included, since Linux 5.14.
fn kill_at_once(dirs: &[PathBuf]) -> io::Result<bool> {
    let mut killed = false;
    for file in dirs.iter().map(|dir| dir.join("cgroup.kill")) {
        match fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| io::Write::write_all(&mut file, b"1"))
        {
            Ok(()) => killed = true,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    // On a hybrid machine the processes may be elsewhere in the unified hierarchy.
    Ok(killed && dirs.len() == 1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_kills_at_once_where_it_can() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = new.path().join("cgroup.kill");
        fs::write(&file, "").unwrap();
        let (old, new) = (old.path().to_owned(), new.path().to_owned());
        assert!(!kill_at_once(std::slice::from_ref(&old)).unwrap());
        assert!(!old.join("cgroup.kill").exists(), "it was made");
        assert!(kill_at_once(std::slice::from_ref(&new)).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        assert!(!kill_at_once(&[old, new]).unwrap(), "what is in the other hierarchies was left out");
    }
}
