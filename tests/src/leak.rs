//! Looks for what a run left behind: mounts, cgroups, processes, network namespaces, sockets, directories.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{delegation, paths, process, subordinate, user::User};

/// Everything that the machine still holds of the test user's and of the fixtures'. Empty after a clean suite.
pub fn anywhere(user: &User) -> Vec<String> {
    let mut found = processes(user);
    found.extend(cgroups(user));
    found.extend(below(&paths::scratch()));
    found.extend(directories());
    found
}

/// Mounts and listening sockets below a directory, in any mount namespace.
pub fn below(dir: &Path) -> Vec<String> {
    let mut found = mounts(dir);
    found.extend(sockets(dir));
    found
}

/// Processes of the user, or of its subordinate ids.
fn processes(user: &User) -> Vec<String> {
    let mut ranges = subordinate::uids(user);
    ranges.push((user.uid, 1));
    let owned = |uid: u32| {
        ranges.iter().any(|(start, count)| uid.checked_sub(*start).is_some_and(|nth| nth < *count))
    };
    process::processes()
        .into_iter()
        .filter(|pid| u32::try_from(*pid).is_ok_and(|pid| pid != std::process::id()))
        .filter(|pid| uid_of(*pid).is_some_and(owned))
        .filter(|pid| !is_zombie(*pid))
        .map(|pid| {
            format!(
                "process {pid}: {}",
                process::command_line(pid).unwrap_or_else(|| "(no command line)".into())
            )
        })
        .collect()
}

/// Ended, and only not yet taken note of by its parent: it holds nothing but its number.
fn is_zombie(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && line.contains('Z'))
}

fn uid_of(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// Cgroups below the delegated subtrees, the supervisor's own leaf excepted.
fn cgroups(user: &User) -> Vec<String> {
    let mut found = Vec::new();
    for subtree in delegation::subtrees(user.uid) {
        let Ok(entries) = fs::read_dir(&subtree) else { continue };
        let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        found.extend(
            dirs.filter(|entry| entry.file_name() != "supervisor")
                .map(|entry| format!("cgroup {}", entry.path().display())),
        );
    }
    found
}

/// Mounts whose line mentions the directory, as a mount point or as a layer, seen from any process; a network
/// namespace that outlives its processes is a mount too.
fn mounts(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let mut seen = std::collections::BTreeSet::new();
    let mut found = Vec::new();
    for pid in process::processes() {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        found.extend(
            text.lines()
                .filter(|line| line.contains(&dir))
                .map(|line| format!("mount of process {pid}: {line}")),
        );
    }
    found
}

fn sockets(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let text = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(7))
        .filter(|path| path.contains(&dir))
        .map(|path| format!("socket {path}"))
        .collect()
}

/// Fixture directories. Staged programs are a cache and stay.
fn directories() -> Vec<String> {
    let Ok(entries) = fs::read_dir(paths::scratch()) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    let kept = |path: &PathBuf| path.file_name().is_none_or(|name| name != "bin");
    paths.filter(kept).map(|path| format!("directory {}", path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_socket_by_its_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(below(dir.path()).is_empty());
        let _listener = std::os::unix::net::UnixListener::bind(dir.path().join("s")).expect("a socket");
        assert_eq!(below(dir.path()).len(), 1);
    }
}
