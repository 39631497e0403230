//! What container engines need to run for the workspace user, without root: subordinate ids that the sandbox has, a
//! runtime directory, and storage that is not on an overlay. Whatever cannot be had is a warning.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::mount_bind;

use crate::accounts::subordinate;
use crate::events::Events;
use crate::files;
use crate::identity::WorkspaceUser;
use crate::tree;

/// Where the keeper mounts a directory of the volume: an overlay's upper directory cannot lie on an overlay.
const STORAGE: &str = "/run/cordium/user-containers";
/// Below the home: where podman, buildah and skopeo keep images and containers.
const STORAGE_TARGET: &str = ".local/share/containers";

/// What is written in `/etc`, while it can be.
pub fn give_ids(user: &WorkspaceUser, events: &Events) {
    warn("subordinate ids", subordinate_ids(user), user, events);
}

/// What is mounted, over whatever else is mounted by then.
pub fn give_directories(user: &WorkspaceUser, events: &Events) {
    warn("runtime directory", runtime_dir(user), user, events);
    warn("storage of their own", storage(user), user, events);
}

fn warn(what: &str, result: io::Result<()>, user: &WorkspaceUser, events: &Events) {
    if let Err(error) = result {
        events.warning(format!("containers of {} get no {what}: {error}", user.name));
    }
}

/// Its `XDG_RUNTIME_DIR`, as a login would give it.
pub fn runtime_path(uid: u32) -> PathBuf {
    PathBuf::from(format!("/run/user/{uid}"))
}

fn subordinate_ids(user: &WorkspaceUser) -> io::Result<()> {
    let wanted = ["/usr/bin/newuidmap", "/bin/newuidmap"].iter().any(|tool| Path::new(tool).exists());
    for (path, id) in [("/etc/subuid", user.uid), ("/etc/subgid", user.gid)] {
        let content = files::read_small(Path::new(path))?;
        if content.is_none() && !wanted {
            continue;
        }
        if let Some(text) = subordinate::with_ranges(&content.unwrap_or_default(), &user.name, id) {
            files::replace(Path::new(path), &text, 0o644)?;
        }
    }
    Ok(())
}

fn runtime_dir(user: &WorkspaceUser) -> io::Result<()> {
    let path = runtime_path(user.uid);
    std::fs::create_dir_all(&path)?;
    if let Some(parent) = path.parent() {
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))?;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::lchown(&path, Some(user.uid), Some(user.gid))
}

fn storage(user: &WorkspaceUser) -> io::Result<()> {
    let volume = Path::new(STORAGE);
    if !volume.is_dir() {
        return Ok(());
    }
    let target = user.home.join(STORAGE_TARGET);
    tree::make_owned(&target, user.uid, user.gid)?;
    std::os::unix::fs::lchown(volume, Some(user.uid), Some(user.gid))?;
    Ok(mount_bind(volume, &target)?)
}
