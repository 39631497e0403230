//! A read-only `/` in which temporary directories and the home stay writable.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_bind, mount_bind_recursive, mount_remount};

use crate::identity::WorkspaceUser;
use crate::tree;

/// Where the keeper mounts the volume's home when the root is to be read-only.
const HOME_VOLUME: &str = "/run/cordium/home-volume";

#[derive(Debug, thiserror::Error)]
pub enum ReadOnlyError {
    #[error("keeping {} writable: {source}", path.display())]
    Writable { path: PathBuf, source: io::Error },
    #[error("making / read-only: {0}")]
    Remount(io::Error),
}

/// Makes the temporary directories that every program expects and a bare image lacks.
pub fn make_temporary_dirs() -> io::Result<()> {
    for path in ["/tmp", "/var/tmp"] {
        ensure_dir(Path::new(path), 0o1777)?;
    }
    Ok(())
}

pub fn make_read_only(user: &WorkspaceUser) -> Result<(), ReadOnlyError> {
    for (path, mode) in [("/tmp", 0o1777), ("/var/tmp", 0o1777), ("/run", 0o755)] {
        let path = Path::new(path);
        keep_writable(path, mode).map_err(|source| ReadOnlyError::Writable { path: path.into(), source })?;
    }
    keep_home(user).map_err(|source| ReadOnlyError::Writable { path: user.home.clone(), source })?;
    remount().map_err(ReadOnlyError::Remount)
}

/// A mount of its own keeps its own flags: it stays writable when the one below does not.
fn keep_writable(path: &Path, mode: u32) -> io::Result<()> {
    ensure_dir(path, mode)?;
    Ok(mount_bind_recursive(path, path)?)
}

fn ensure_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

fn keep_home(user: &WorkspaceUser) -> io::Result<()> {
    let volume = Path::new(HOME_VOLUME);
    if !volume.is_dir() {
        return Ok(mount_bind_recursive(&user.home, &user.home)?);
    }
    if tree::is_vacant(volume)? {
        tree::copy_tree(&user.home, volume, user.uid, user.gid)?;
        tree::chown_tree(volume, user.uid, user.gid)?;
    }
    Ok(mount_bind(volume, &user.home)?)
}

fn remount() -> io::Result<()> {
    let kept = kept_flags(statvfs("/")?.f_flag);
    Ok(mount_remount("/", kept | MountFlags::BIND | MountFlags::RDONLY, c"")?)
}

/// In a user namespace the flags of a mount are locked: a remount that drops one is refused.
fn kept_flags(current: StatVfsMountFlags) -> MountFlags {
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(flag, _)| current.contains(*flag));
    kept.fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_flags_are_kept() {
        let flags =
            kept_flags(StatVfsMountFlags::NOSUID | StatVfsMountFlags::RELATIME | StatVfsMountFlags::RDONLY);
        assert_eq!(flags, MountFlags::NOSUID | MountFlags::RELATIME);
    }
}
