//! The agent's standard error, copied to the keeper's log up to a bound.
//!
//! It is a pipe to us, not the log itself: what runs inside could get hold of it. Whoever does can also open its other
//! end and take out what we were told is there, so that reading must never wait.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// What the agent may write to the keeper's log altogether; the rest is read and dropped.
const MAX_LOG: usize = 256 << 10;

pub(super) struct AgentLog {
    pipe: File,
    left: usize,
}

impl AgentLog {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self { pipe: pipe.into(), left: MAX_LOG })
    }

    /// Copies what is there, one piece of it. False when no more will come.
    pub(super) fn copy(&mut self, log: &mut impl Write) -> bool {
        let mut buffer = [0; 4096];
        match self.pipe.read(&mut buffer) {
            Ok(0) => false,
            Ok(read) => {
                let kept = read.min(self.left);
                self.left -= kept;
                // A full disk must not end the sandbox.
                let _ = log.write_all(&buffer[..kept]);
                true
            }
            Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
    }
}

impl AsFd for AgentLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pipe() -> (AgentLog, File) {
        let (read, write) = nix::unistd::pipe().unwrap();
        (AgentLog::new(read).unwrap(), write.into())
    }

    #[test]
    fn a_pipe_that_somebody_else_has_emptied_is_not_waited_for() {
        let (mut log, mut agent) = pipe();
        assert!(log.copy(&mut io::sink()), "it stays open");
        agent.write_all(b"x").unwrap();
        let mut kept = Vec::new();
        assert!(log.copy(&mut kept) && kept == b"x");
        drop(agent);
        assert!(!log.copy(&mut kept));
    }

    #[test]
    fn no_more_than_the_bound_is_kept() {
        let (mut log, mut agent) = pipe();
        let mut kept = Vec::new();
        for _ in 0..MAX_LOG / 4096 + 10 {
            agent.write_all(&[b'x'; 4096]).unwrap();
            assert!(log.copy(&mut kept));
        }
        assert_eq!(kept.len(), MAX_LOG);
    }
}
