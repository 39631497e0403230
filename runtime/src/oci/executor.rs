//! The last steps inside the container, which libcontainer leaves to its caller: seccomp, then `execve`.

use std::{ffi::CString, os::fd::OwnedFd, sync::Arc};

use caps::{CapSet, Capability};
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use seccompiler::BpfProgram;

use crate::sys;

/// Becomes the agent, under the sandbox's seccomp filters.
#[derive(Clone)]
pub struct AgentExecutor {
    filters: Vec<BpfProgram>,
    /// What the agent must not keep although loading the filters needed it.
    drop: Vec<Capability>,
    /// The process that the sandbox must not outlive.
    keeper: Arc<OwnedFd>,
}

impl AgentExecutor {
    pub fn new(filters: Vec<BpfProgram>, drop: Vec<Capability>, keeper: OwnedFd) -> Self {
        Self { filters, drop, keeper: Arc::new(keeper) }
    }

    fn drop_capabilities(&self) -> Result<(), caps::errors::CapsError> {
        for &capability in &self.drop {
            for set in
                [CapSet::Ambient, CapSet::Bounding, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted]
            {
                caps::drop(None, set, capability)?;
            }
        }
        Ok(())
    }
}

impl Executor for AgentExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = spec.process().as_ref().and_then(|process| process.args().as_ref());
        let args = args
            .ok_or(ExecutorError::InvalidArg)?
            .iter()
            .map(|arg| c_string(arg))
            .collect::<Result<Vec<_>, _>>()?;
        let env = std::env::vars()
            .map(|(key, value)| c_string(&format!("{key}={value}")))
            .collect::<Result<Vec<_>, _>>()?;
        let program = args.first().ok_or(ExecutorError::InvalidArg)?;
        let step =
            |what: &str, error: &dyn std::fmt::Display| ExecutorError::Other(format!("{what}: {error}"));
        for filter in &self.filters {
            sys::load_seccomp(filter).map_err(|e| step("loading a seccomp filter", &e))?;
        }
        self.drop_capabilities().map_err(|e| step("dropping capabilities", &e))?;
        match nix::unistd::execve(program, &args, &env) {
            Err(error) => Err(step("executing the agent", &error)),
        }
    }

    /// Called in the container's init, with the agent's credentials, before it waits to be started: from then on a
    /// keeper that is killed takes it along. Later would be too late, since nobody would ever end that wait; one that was
    /// killed before cannot send the signal any more.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let failed = |cause: String| {
            let message = format!("binding the sandbox's life to its keeper: {cause}");
            ExecutorValidationError::ArgValidationError(message)
        };
        sys::die_with_parent().map_err(|e| failed(e.to_string()))?;
        if has_ended(&self.keeper).map_err(|e| failed(e.to_string()))? {
            return Err(failed("it is gone already".to_owned()));
        }
        let has_args = spec
            .process()
            .as_ref()
            .and_then(|process| process.args().as_ref())
            .is_some_and(|args| !args.is_empty());
        if has_args {
            Ok(())
        } else {
            Err(ExecutorValidationError::ArgValidationError("no program to run".to_owned()))
        }
    }
}

/// A pidfd becomes readable when its process has ended.
fn has_ended(process: &OwnedFd) -> rustix::io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&at_once)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => return ready.map(|count| count > 0),
        }
    }
}

fn c_string(text: &str) -> Result<CString, ExecutorError> {
    CString::new(text).map_err(|_| ExecutorError::InvalidArg)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod tests {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_keeper_that_is_gone_is_found_out() {
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        assert!(!has_ended(&pidfd).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(has_ended(&pidfd).unwrap());
    }
}
