//! The one unsafe call of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Makes a non-blocking descriptor wait in the runtime.
pub(crate) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, always gives the same descriptor, and closes it only when it is dropped, which the
    // `AsyncFd` that owns it does after deregistering.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}
