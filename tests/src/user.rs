//! The unprivileged user that supervisors and command lines run as.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::delegation;

/// The user that `cargo xtask setup` makes when it runs as root.
pub const TEST_USER: &str = "cordium-test";

#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

impl User {
    /// `cordium-test` when we are root, else whoever we are.
    pub fn for_tests() -> Result<Self> {
        let own = nix::unistd::geteuid();
        let user = if own.is_root() {
            Self::find(|user| user.name == TEST_USER)?
                .with_context(|| format!("there is no user {TEST_USER}: run `cargo xtask setup`"))?
        } else {
            Self::find(|user| user.uid == own.as_raw())?
                .with_context(|| format!("uid {own} is not in /etc/passwd"))?
        };
        if user.uid == 0 {
            bail!("{} is root: the tests need an unprivileged user", user.name);
        }
        Ok(user)
    }

    /// Looks a user up in `/etc/passwd`.
    pub fn find(wanted: impl Fn(&Self) -> bool) -> Result<Option<Self>> {
        let passwd = fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        Ok(passwd.lines().filter_map(Self::parse).find(wanted))
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
        Some(Self {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: PathBuf::from(home),
        })
    }

    /// A command that runs as this user with a clean environment, in the root directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        if nix::unistd::geteuid().is_root() {
            command.uid(self.uid).gid(self.gid);
        }
        self.clean(&mut command);
        command
    }

    /// As `command`, but first in the user's delegated part of every cgroup hierarchy, as a login session would be.
    /// A process may only be moved there by somebody who may write to both ends, so this happens while still root.
    pub fn session_command(&self, program: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        let join = "while [ \"$1\" != -- ]; do echo 0 > \"$1/cgroup.procs\" || exit 120; shift; done; shift; exec \"$@\"";
        command.args(["-c", join, "session"]).args(delegation::leaves(self.uid)).arg("--");
        if nix::unistd::geteuid().is_root() {
            let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
            command.args([
                "setpriv",
                "--reuid",
                &uid,
                "--regid",
                &gid,
                "--clear-groups",
                "--inh-caps=-all",
                "--",
            ]);
        }
        command.arg(program);
        self.clean(&mut command);
        command
    }

    fn clean(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("LOGNAME", &self.name)
            .env("LANG", "C.UTF-8")
            .current_dir("/");
        if let Some(backtrace) = std::env::var_os("RUST_BACKTRACE") {
            command.env("RUST_BACKTRACE", backtrace);
        }
    }

    /// Makes a directory that belongs to this user.
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
        self.own(path)
    }

    /// Gives a path to this user.
    pub fn own(&self, path: &Path) -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid))
            .with_context(|| format!("giving {} to {}", path.display(), self.name))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_line_of_passwd() {
        let user = User::parse("alice:x:1000:100:Alice,,,:/home/alice:/bin/sh").unwrap();
        assert_eq!((user.uid, user.gid, user.home), (1000, 100, PathBuf::from("/home/alice")));
        assert!(User::parse("broken:x:1000").is_none());
        assert!(User::parse("bob:x:minus:1::/:").is_none());
    }
}
