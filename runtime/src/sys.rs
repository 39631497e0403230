//! Every `unsafe` of this crate, each with the invariant that makes it sound.
#![allow(unsafe_code)]

use std::{
    ffi::c_ulong,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    fcntl::OFlag,
    unistd::{ForkResult, Pid, fork},
};
use seccompiler::BpfProgram;

/// Forks a child that runs `work` and exits with its code.
///
/// Must be called while the process has one thread: the child may then allocate and lock as it likes.
#[allow(clippy::disallowed_methods)]
pub fn fork_child(work: impl FnOnce() -> i32) -> nix::Result<Pid> {
    debug_assert_eq!(threads(), 1);
    // SAFETY: the process has a single thread, so no lock can be held by a thread that the child lacks.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let code = work();
            // SAFETY: `_exit` takes no pointers; it skips the parent's exit handlers, which are not the child's.
            unsafe { libc::_exit(code) }
        }
    }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// Closes every descriptor above standard error except those that `keep` says, and occupies number `slot` so that it
/// can later be given to a child under that number.
///
/// The descriptors that are closed must have no owner in this process: call it first thing in `main`.
pub fn only_stdio(keep: i32, slot: i32) -> io::Result<OwnedFd> {
    let (low, high) = (3, keep);
    for (first, last) in [(low, high - 1), (high + 1, i32::MAX)] {
        if first > last {
            continue;
        }
        // SAFETY: by this function's contract nothing owns the descriptors in this range.
        if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let null = std::fs::File::open("/dev/null")?;
    if null.as_raw_fd() == slot {
        return Ok(null.into());
    }
    // SAFETY: everything but `keep` and `null` was closed just now, so the number is free; the result owns it.
    unsafe { nix::unistd::dup3_raw(&null, slot, OFlag::O_CLOEXEC) }.map_err(Into::into)
}

/// Closes every descriptor above standard error but these. For a child that owns none of the others.
pub fn keep_only(descriptors: &[&OwnedFd]) -> io::Result<()> {
    let mut keep: Vec<i32> = descriptors.iter().map(|fd| fd.as_raw_fd()).filter(|fd| *fd > 2).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.iter().map(|fd| fd - 1).chain([i32::MAX]) {
        // SAFETY: by this function's contract nothing in this process uses the descriptors in this range any more; their
        // owners were left behind in the parent's part of the stack, which is never returned to.
        if first <= last && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        first = last.saturating_add(2);
    }
    Ok(())
}

/// Loads a seccomp filter without setting `no_new_privs`, which needs CAP_SYS_ADMIN in the own user namespace.
///
/// seccompiler's own loader sets `no_new_privs`, and with it `sudo` inside a sandbox would not work.
pub fn load_seccomp(program: &BpfProgram) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let filter = libc::sock_fprog { len, filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut() };
    let flags: c_ulong = 0;
    // SAFETY: `filter` points to `len` instructions that outlive the call; the kernel copies and never writes them.
    // seccompiler's `sock_filter` has the C layout of libc's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            flags,
            &raw const filter,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Marks every descriptor from `first` on to be closed by `execve`.
pub fn close_on_exec_from(first: i32) -> io::Result<()> {
    // SAFETY: only a flag of the descriptors changes; whoever owns them goes on to do so.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, i32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for SIGKILL when the thread that made this process ends.
pub fn die_with_parent() -> io::Result<()> {
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and no pointers.
    let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
