//! Lists of system calls, for processes that confine themselves.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op,
    SeccompCondition as If, SeccompFilter, SeccompRule,
};

/// By number. A call without rules is allowed whatever its arguments, else one of the rules must hold.
pub type Allowed = BTreeMap<i64, Vec<SeccompRule>>;

/// These, whatever their arguments.
pub fn plain<'a>(calls: impl IntoIterator<Item = &'a i64>) -> Allowed {
    calls.into_iter().map(|call| (*call, Vec::new())).collect()
}

/// A condition on the lower half of an argument.
pub fn argument(index: u8, op: Op, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![If::new(index, Length::Dword, op, value)?])
}

/// An error for the rest and not a kill: a call that a future C library adds must not take the process with it.
pub fn compile(allowed: Allowed) -> Result<BpfProgram, BackendError> {
    let deny = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(allowed, deny, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}
