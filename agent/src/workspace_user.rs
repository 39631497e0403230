//! Finds or makes the workspace user, its home and its way to root.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::accounts::create::plan_user;
use crate::accounts::{AccountFiles, AccountsError};
use crate::events::Events;
use crate::identity::WorkspaceUser;
use crate::{files, tree};

const SHELLS: [&str; 12] = [
    "/bin/bash",
    "/usr/bin/bash",
    "/usr/local/bin/bash",
    "/bin/zsh",
    "/usr/bin/zsh",
    "/usr/local/bin/zsh",
    "/bin/sh",
    "/usr/bin/sh",
    "/usr/local/bin/sh",
    "/bin/ash",
    "/busybox/sh",
    "/bin/dash",
];

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error("adding the workspace user to {path}: {source}")]
    Write { path: &'static str, source: io::Error },
    #[error("making the home directory {}: {source}", path.display())]
    Home { path: PathBuf, source: io::Error },
}

pub fn ensure(events: &Events) -> Result<WorkspaceUser, UserError> {
    let files = AccountFiles::read()?;
    let fallback = SHELLS.iter().map(Path::new).find(|path| is_executable(path));
    let plan = plan_user(&files, fallback.and_then(Path::to_str).unwrap_or("/sbin/nologin"));
    if let Some(new) = &plan.write {
        // The user exists once the last of these is written.
        for (path, content, old, mode) in [
            ("/etc/group", &new.group, &files.group, 0o644),
            ("/etc/shadow", &new.shadow, &files.shadow, 0o600),
            ("/etc/passwd", &new.passwd, &files.passwd, 0o644),
        ] {
            if content != old {
                files::replace(Path::new(path), content, mode)
                    .map_err(|source| UserError::Write { path, source })?;
            }
        }
    }
    let own_shell = Path::new(&plan.user.shell);
    let shell = if is_login_shell(own_shell) { Some(own_shell) } else { fallback };
    let user = WorkspaceUser {
        name: plan.user.name,
        uid: plan.user.uid,
        gid: plan.user.gid,
        home: home_path(&plan.user.home),
        shell: shell.map(Path::to_path_buf),
    };
    make_home(&user, events)?;
    allow_sudo(&user, events);
    Ok(user)
}

fn home_path(home: &str) -> PathBuf {
    let path = Path::new(home);
    let usable = path.is_absolute() && path != Path::new("/") && path != Path::new("/nonexistent");
    if usable { path.to_path_buf() } else { PathBuf::from("/home/cordium") }
}

fn make_home(user: &WorkspaceUser, events: &Events) -> Result<(), UserError> {
    let failed = |source| UserError::Home { path: user.home.clone(), source };
    let owner = std::fs::metadata(&user.home).ok().map(|found| found.uid());
    if owner == Some(user.uid) {
        return Ok(());
    }
    std::fs::create_dir_all(&user.home).map_err(failed)?;
    let skeleton = Path::new("/etc/skel");
    if skeleton.is_dir()
        && let Err(error) = tree::copy_tree(skeleton, &user.home, user.uid, user.gid)
    {
        events.warning(format!("copying /etc/skel to {}: {error}", user.home.display()));
    }
    tree::chown_tree(&user.home, user.uid, user.gid).map_err(failed)
}

fn allow_sudo(user: &WorkspaceUser, events: &Events) {
    if !Path::new("/etc/sudoers").exists() {
        return;
    }
    let path = Path::new("/etc/sudoers.d/cordium");
    let line = sudoers(user);
    if files::read_small(path).is_ok_and(|content| content.as_deref() == Some(line.as_bytes())) {
        return;
    }
    let written = files::replace(path, line.as_bytes(), 0o440)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o440)));
    if let Err(error) = written {
        events.warning(format!("allowing sudo in {}: {error}", path.display()));
    }
}

/// By number where the name could mean something else to sudo.
fn sudoers(user: &WorkspaceUser) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let named =
        user.name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && user.name.chars().all(plain);
    let subject = if named { user.name.clone() } else { format!("#{}", user.uid) };
    format!("{subject} ALL=(ALL:ALL) NOPASSWD: ALL\n")
}

fn is_login_shell(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    !matches!(name, "" | "nologin" | "false" | "true" | "sync") && is_executable(path)
}

fn is_executable(path: &Path) -> bool {
    path.is_absolute()
        && std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sudoers_never_takes_an_odd_name_literally() {
        let user = |name: &str| WorkspaceUser {
            name: name.into(),
            uid: 1000,
            gid: 1000,
            home: "/h".into(),
            shell: None,
        };
        assert_eq!(sudoers(&user("ubuntu")), "ubuntu ALL=(ALL:ALL) NOPASSWD: ALL\n");
        assert_eq!(sudoers(&user("%wheel")), "#1000 ALL=(ALL:ALL) NOPASSWD: ALL\n");
        assert_eq!(sudoers(&user("ALL")), "#1000 ALL=(ALL:ALL) NOPASSWD: ALL\n");
    }

    #[test]
    fn a_home_of_slash_is_no_home() {
        assert_eq!(home_path("/"), Path::new("/home/cordium"));
        assert_eq!(home_path("rel"), Path::new("/home/cordium"));
        assert_eq!(home_path("/home/ubuntu"), Path::new("/home/ubuntu"));
    }
}
