//! Who the sandbox is and whose it is: the same for tasks, commands and terminals.

use std::path::{Path, PathBuf};

use cordium_proto::v1::PrepareRequest;

use crate::accounts::{AccountFiles, Credentials, resolve};
use crate::environment::{DEFAULT_PATH, Environment, pairs};
use crate::rootless;
use crate::trust;

/// The user whose workspace this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceUser {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
    /// What reads tasks and terminals; none in an image without a shell.
    pub shell: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    User,
    Root,
}

impl Who {
    pub fn root_if(root: bool) -> Self {
        if root { Who::Root } else { Who::User }
    }
}

pub struct Identity {
    pub user: WorkspaceUser,
    base: Environment,
}

impl Identity {
    /// `trust` says where the trust stores are, unless the image or the spec does.
    pub fn new(user: WorkspaceUser, request: &PrepareRequest, trust: &trust::Variables) -> Self {
        let uid = request.workspace_uid.as_str();
        let stores = trust.iter().map(|(key, value)| (*key, value.as_str()));
        let set =
            Environment::default().with(stores).with(pairs(&request.image_env)).with(pairs(&request.env));
        let base = set.with([
            ("CORDIUM", "1"),
            ("CORDIUM_NAME", request.workspace_name.as_str()),
            ("CORDIUM_HOSTNAME", request.hostname.as_str()),
            ("CORDIUM_UID", uid),
            ("CORDIUM_SPACE", request.space.as_str()),
        ]);
        Self { user, base }
    }

    pub fn home(&self, who: Who) -> &Path {
        match who {
            Who::User => &self.user.home,
            Who::Root => root_home(),
        }
    }

    pub fn environment(&self, who: Who) -> Environment {
        let (name, home) = match who {
            Who::User => (self.user.name.as_str(), self.user.home.as_path()),
            Who::Root => ("root", root_home()),
        };
        let mut environment = self.environment_of(name, home);
        if who == Who::User {
            environment
                .set_default("XDG_RUNTIME_DIR", &rootless::runtime_path(self.user.uid).to_string_lossy());
        }
        environment
    }

    /// For a user of the image that is neither root nor the workspace's.
    pub fn environment_of(&self, name: &str, home: &Path) -> Environment {
        let mut environment = self.base.clone();
        environment.set("HOME", &home.to_string_lossy());
        environment.set("USER", name);
        environment.set("LOGNAME", name);
        if let Some(shell) = &self.user.shell {
            environment.set("SHELL", &shell.to_string_lossy());
        }
        environment.set_default("PATH", DEFAULT_PATH);
        environment
    }

    /// Read afresh at each use, so that a new membership counts in the next terminal.
    pub fn credentials(&self, who: Who) -> Credentials {
        let (name, uid, gid) = match who {
            Who::User => (self.user.name.as_str(), self.user.uid, self.user.gid),
            Who::Root => ("root", 0, 0),
        };
        match AccountFiles::read_names() {
            Ok(files) => resolve::of_user(&files, name, uid, gid),
            Err(error) => {
                tracing::warn!(%error, "supplementary groups are left out");
                Credentials { uid, gid, groups: vec![gid] }
            }
        }
    }
}

fn root_home() -> &'static Path {
    let home = Path::new("/root");
    if home.is_dir() { home } else { Path::new("/") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::EnvVar;

    fn var(key: &str, value: &str) -> EnvVar {
        EnvVar { key: key.into(), value: value.into() }
    }

    #[test]
    fn forced_names_win_and_path_is_only_a_default() {
        let request = PrepareRequest {
            workspace_name: "demo".into(),
            image_env: vec![var("A", "image"), var("PATH", "/image/bin")],
            env: vec![var("A", "spec"), var("CORDIUM_NAME", "forged"), var("HOME", "/forged")],
            ..PrepareRequest::default()
        };
        let user = WorkspaceUser {
            name: "me".into(),
            uid: 1000,
            gid: 1000,
            home: "/home/me".into(),
            shell: Some("/bin/sh".into()),
        };
        let trust = vec![("A", "trust".to_owned()), ("SSL_CERT_FILE", "/bundle".to_owned())];
        let environment = Identity::new(user, &request, &trust).environment(Who::User);
        let get = |key| environment.get(key);
        assert_eq!(get("A"), Some("spec"));
        assert_eq!(get("PATH"), Some("/image/bin"));
        assert_eq!(get("SSL_CERT_FILE"), Some("/bundle"));
        assert_eq!(get("CORDIUM_NAME"), Some("demo"));
        assert_eq!((get("HOME"), get("USER"), get("SHELL")), (Some("/home/me"), Some("me"), Some("/bin/sh")));
    }
}
