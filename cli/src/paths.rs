//! Where the supervisor keeps its state and its socket, by the same rules as the supervisor itself.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::args::Global;

pub const SOCKET_NAME: &str = "cordium.sock";

#[derive(Debug, Clone)]
pub struct Paths {
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub socket: PathBuf,
    /// The user named the socket, so who listens on it is the user's choice.
    pub socket_is_explicit: bool,
}

impl Paths {
    pub fn resolve(global: &Global) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let state_dir = global
            .state_dir
            .clone()
            .or_else(|| absolute("XDG_DATA_HOME").map(|d| d.join("cordium")))
            .or_else(|| absolute("HOME").map(|d| d.join(".local/share/cordium")))
            .unwrap_or_else(|| PathBuf::from(format!("/var/tmp/cordium-{uid}")));
        let run_dir = match (&global.run_dir, &global.socket) {
            (Some(dir), _) => dir.clone(),
            (None, Some(socket)) => parent_of(socket),
            (None, None) => absolute("XDG_RUNTIME_DIR")
                .map(|d| d.join("cordium"))
                .unwrap_or_else(|| PathBuf::from(format!("/tmp/cordium-{uid}"))),
        };
        let socket = global.socket.clone().unwrap_or_else(|| run_dir.join(SOCKET_NAME));
        Self { state_dir, run_dir, socket, socket_is_explicit: global.socket.is_some() }
    }

    pub fn supervisor_log(&self) -> PathBuf {
        self.state_dir.join("supervisor.log")
    }

    /// Whether a supervisor that is started for `run_dir` would listen on `socket`.
    pub fn can_autostart(&self) -> bool {
        self.socket == self.run_dir.join(SOCKET_NAME)
    }
}

fn absolute(key: &str) -> Option<PathBuf> {
    env::var_os(key).map(PathBuf::from).filter(|p| p.is_absolute())
}

fn parent_of(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// An executable of the given name beside this one, else on PATH.
pub fn find_sibling(name: &str) -> Option<PathBuf> {
    let beside = env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(name)));
    beside.filter(|p| is_executable(p)).or_else(|| find_on_path(name))
}

/// An executable on PATH, or in the system directories that an ordinary user's PATH often lacks.
pub fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|p| is_executable(p))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(socket: Option<&str>, run_dir: Option<&str>) -> Global {
        Global { socket: socket.map(Into::into), run_dir: run_dir.map(Into::into), ..Global::default() }
    }

    #[test]
    fn a_socket_of_the_usual_name_can_be_started() {
        let p = Paths::resolve(&global(Some("/run/x/cordium.sock"), None));
        assert_eq!(p.run_dir, PathBuf::from("/run/x"));
        assert!(p.can_autostart() && p.socket_is_explicit);
    }

    #[test]
    fn a_socket_of_another_name_cannot() {
        assert!(!Paths::resolve(&global(Some("/run/x/other.sock"), None)).can_autostart());
        assert!(!Paths::resolve(&global(Some("/run/x/cordium.sock"), Some("/run/y"))).can_autostart());
    }

    #[test]
    fn the_run_dir_holds_the_socket() {
        let p = Paths::resolve(&global(None, Some("/run/z")));
        assert_eq!(p.socket, PathBuf::from("/run/z/cordium.sock"));
        assert!(!p.socket_is_explicit);
    }
}
