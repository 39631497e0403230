//! The end of a container's init: the bundle's seccomp filters, then its program.

use caps::Capability;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::Spec;
use seccompiler::BpfProgram;

use super::process;

/// Becomes the program of the bundle.
#[derive(Clone)]
pub(super) struct ProgramExecutor {
    pub(super) filters: Vec<BpfProgram>,
    /// Capabilities that were only lent for loading the filters.
    pub(super) borrowed: Vec<Capability>,
    /// HOME is still to be looked up.
    pub(super) without_home: bool,
}

impl Executor for ProgramExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let args = args(spec).ok_or(ExecutorError::InvalidArg)?;
        // libcontainer has put the program's environment in place of its own.
        let mut env: Vec<String> = std::env::vars().map(|(key, value)| format!("{key}={value}")).collect();
        if self.without_home {
            let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
            env.retain(|entry| !entry.starts_with("HOME="));
            env.push(format!("HOME={}", process::home(uid)));
        }
        let fail = |step: process::Failed| ExecutorError::Other(step.to_string());
        process::stay_inside().map_err(fail)?;
        let program = process::Program::find(args, &env).map_err(fail)?;
        process::restrict(&self.filters, &self.borrowed).map_err(fail)?;
        Err(fail(program.execute()))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let invalid = ExecutorValidationError::ArgValidationError;
        let args = args(spec).ok_or_else(|| invalid("process.args is empty".to_owned()))?;
        let env = spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
        process::find_program(&args[0], &env).map(|_| ()).map_err(|e| invalid(e.to_string()))
    }
}

fn args(spec: &Spec) -> Option<&[String]> {
    let args = spec.process().as_ref()?.args().as_deref()?;
    (!args.is_empty()).then_some(args)
}
