//! Where attacks are made from: namespaces that the sandbox's root may make for itself.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

/// A mount namespace of one's own, in which nothing spreads.
pub fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// A user namespace below the sandbox's, in which one has every capability, with more namespaces of one's own.
pub fn nested(also: CloneFlags) -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | also)?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// A new directory that nobody else uses.
pub fn scratch(name: &str) -> io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("cordium-escape-{}-{name}", std::process::id()));
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Makes a directory in a directory, and so on, with a file in each; says how many there are.
pub fn dig(base: &Path, most: usize) -> String {
    let open =
        |dir: &OwnedFd, name: &str| openat(dir, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut here = match openat(CWD, base, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(here) => here,
        Err(error) => return format!("0: {error}"),
    };
    for depth in 0..most {
        // Where only directories can be made, there is no file.
        let _ = openat(&here, "file", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o600));
        let below = mkdirat(&here, "below", Mode::from_raw_mode(0o700)).and_then(|()| open(&here, "below"));
        match below {
            Ok(below) => here = below,
            Err(error) => return format!("{depth}: {error}"),
        }
    }
    format!("{most}: enough")
}
