//! The only unsafe code of the command line.
#![allow(unsafe_code)]

use std::{os::unix::process::CommandExt as _, process::Command};

/// Makes the child the leader of its own session, so that it outlives our terminal.
pub fn detach(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs between fork and exec; it calls only setsid(2), which is async-signal-safe, and
    // builds an io::Error from a number, which does not allocate.
    unsafe {
        command.pre_exec(|| match rustix::process::setsid() {
            Ok(_) => Ok(()),
            Err(e) => Err(std::io::Error::from_raw_os_error(e.raw_os_error())),
        })
    }
}

/// The version of the kernel's Landlock interface, or the error of asking for it.
pub fn landlock_abi() -> nix::Result<i64> {
    const CREATE_RULESET_VERSION: nix::libc::c_uint = 1;
    // SAFETY: with the version flag, a null attribute and size 0 the kernel reads and writes no memory of ours.
    let version = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_landlock_create_ruleset,
            std::ptr::null::<nix::libc::c_void>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    nix::errno::Errno::result(version)
}
