//! The two user namespaces and the network namespace of each.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::wait::waitpid,
    unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid},
};

use super::{
    namespace_limits::NamespaceLimits,
    protocol::{Connection, FromKeeper, ProtocolError, ToKeeper},
    user_limits,
};
use crate::{SANDBOX_IDS, sys};

#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("making the outer namespaces: {0}; are unprivileged user namespaces enabled? (cordium doctor)")]
    Outer(nix::Error),
    #[error("waiting for the id maps: {0}")]
    Maps(#[from] ProtocolError),
    #[error("becoming root of the outer user namespace: {0}")]
    Root(nix::Error),
    #[error("starting the process that makes the inner namespaces: {0}")]
    Fork(nix::Error),
    #[error("making the inner user and network namespaces: {0}")]
    Inner(io::Error),
    #[error("writing {path}: {source}", path = path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("opening {path}: {source}", path = path.display())]
    Open { path: PathBuf, source: io::Error },
}

/// Enters a new user namespace O, with a mount and a network namespace (the gateway) of its own, and becomes its root.
pub(crate) fn make_outer(supervisor: &mut Connection) -> Result<(), NamespaceError> {
    let limits = NamespaceLimits::of_node();
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
        .map_err(NamespaceError::Outer)?;
    supervisor.send(&FromKeeper::NeedMaps)?;
    match supervisor.receive()? {
        ToKeeper::Mapped => {}
        other => return Err(ProtocolError::Unexpected(format!("{other:?}")).into()),
    }
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[]).map_err(NamespaceError::Root)?;
    setresgid(gid, gid, gid).map_err(NamespaceError::Root)?;
    setresuid(uid, uid, uid).map_err(NamespaceError::Root)?;
    limits.apply();
    Ok(())
}

/// The sandbox's user namespace I and its network namespace, kept alive by their descriptors.
pub(crate) struct Inner {
    pub(crate) user: OwnedFd,
    pub(crate) network: OwnedFd,
}

/// Makes I as a child of O, with ids 0…65535 on O's 1…65536.
///
/// libcontainer could do this too, but it takes a caller in a user namespace for an unprivileged one and forbids
/// `setgroups` for good, without which neither `sudo` nor `apt` works inside.
pub(crate) fn make_inner() -> Result<Inner, NamespaceError> {
    let (mut ready_rx, mut ready_tx) = pipe()?;
    let (mut done_rx, done_tx) = pipe()?;
    let done_fd = done_tx.as_raw_fd();
    let child = sys::fork_child(|| {
        // The child's copy of the parent's end, without which the parent's close would be no end of file.
        let _ = nix::unistd::close(done_fd);
        let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
        let made = user_limits::lower_to_shares().and_then(|()| unshare(flags));
        let code = made.err().map_or(0, |error| error as i32);
        if ready_tx.write_all(&code.to_ne_bytes()).is_ok() {
            let _ = done_rx.read(&mut [0]);
        }
        0
    })
    .map_err(NamespaceError::Fork)?;
    let result = adopt(child, &mut ready_rx);
    drop(done_tx);
    let _ = waitpid(child, None);
    result
}

fn adopt(child: Pid, ready: &mut File) -> Result<Inner, NamespaceError> {
    let mut code = [0; 4];
    ready.read_exact(&mut code).map_err(NamespaceError::Inner)?;
    match i32::from_ne_bytes(code) {
        0 => {}
        code => return Err(NamespaceError::Inner(io::Error::from_raw_os_error(code))),
    }
    let proc = PathBuf::from(format!("/proc/{child}"));
    let map = format!("0 1 {SANDBOX_IDS}");
    for file in ["uid_map", "gid_map"] {
        let path = proc.join(file);
        fs::write(&path, &map).map_err(|source| NamespaceError::Write { path, source })?;
    }
    let open = |name: &str| {
        let path = proc.join("ns").join(name);
        File::open(&path).map(OwnedFd::from).map_err(|source| NamespaceError::Open { path, source })
    };
    Ok(Inner { user: open("user")?, network: open("net")? })
}

fn pipe() -> Result<(File, File), NamespaceError> {
    let (rx, tx) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|e| NamespaceError::Inner(e.into()))?;
    Ok((rx.into(), tx.into()))
}
