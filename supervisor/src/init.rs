//! The first process of a container, when that is us: it takes in what others leave behind, and the daemon is its child.
//!
//! A keeper that ends leaves its children to the first process, and so does every program that a keeper ran. The daemon
//! cannot wait for processes that it does not know without taking the exit of those that it does from their owners.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitCode, ExitStatus},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Whether orphans come to us.
pub fn is_first() -> bool {
    nix::unistd::getpid().as_raw() == 1
}

/// The daemon's part, before it has a second thread: it is started with the signals blocked that its parent waits for.
pub fn unblock_signals() -> Result<(), Errno> {
    SigSet::empty().thread_set_mask()
}

/// Runs this program once more with the same arguments, passes signals on to it, and ends as it does. The kernel then
/// ends whatever else is in the container.
pub fn run() -> ExitCode {
    match serve() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cordium-supervisor: being the container's first process: {error}");
            ExitCode::FAILURE
        }
    }
}

// Its only thread: nothing is served from here.
#[allow(clippy::disallowed_methods)]
fn serve() -> io::Result<ExitCode> {
    let signals = SigSet::from_iter([
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ]);
    signals.thread_block()?;
    let daemon = Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).spawn()?;
    let daemon = Pid::from_raw(i32::try_from(daemon.id()).map_err(io::Error::other)?);
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(daemon)? {
                    return Ok(code);
                }
            }
            signal => match kill(daemon, signal) {
                // It has ended, and its exit is on the way.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            },
        }
    }
}

/// Waits for all that have ended; the daemon's code if it is among them.
fn reap(daemon: Pid) -> io::Result<Option<ExitCode>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == daemon => {
                return Ok(Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == daemon => {
                let status = ExitStatus::from_raw(signal as i32);
                eprintln!("cordium-supervisor: the daemon was ended: {status}");
                return Ok(Some(ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
