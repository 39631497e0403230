//! Makes the delegated part of the unified hierarchy ready for workspaces, once, when the supervisor starts.
//!
//! A v2 cgroup passes controllers on only while no process is in it. A service manager that delegates a cgroup starts the
//! supervisor right in it (`Delegate=yes`), so everybody there moves to the leaf `supervisor/` first.

use std::{fs, io, path::Path};

use super::probe::{Hierarchy, HierarchyKind, Layout};

/// The leaf that `cordium setup` makes, too.
const LEAF: &str = "supervisor";
/// A process that forks while it is moved is found in the next round.
const ROUNDS: usize = 16;

/// Frees the subtree's root of processes, passes its controllers on, and leaves in the layout those that it could.
pub(crate) fn settle(layout: &mut Layout) {
    for hierarchy in &mut layout.hierarchies {
        let HierarchyKind::V2(controllers) = &hierarchy.kind else { continue };
        if controllers.is_empty() {
            continue;
        }
        if hierarchy.base != hierarchy.mount
            && let Err(error) = vacate(&hierarchy.base)
        {
            tracing::warn!(cgroup = %hierarchy.base.display(), %error, "moving processes to a leaf");
        }
        pass_on(&hierarchy.base, controllers);
        let passed = passed_on(hierarchy);
        hierarchy.kind = HierarchyKind::V2(passed);
    }
}

/// Moves every process of a cgroup to a leaf below it.
fn vacate(dir: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let processes = fs::read_to_string(dir.join("cgroup.procs"))?;
        // 0 is a process that our pid namespace does not have; nobody can name it.
        let movable: Vec<&str> = processes.lines().filter(|pid| *pid != "0").collect();
        if movable.is_empty() {
            return Ok(());
        }
        let leaf = dir.join(LEAF);
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        for pid in movable {
            match fs::write(leaf.join("cgroup.procs"), pid) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
    }
    Err(io::Error::other("processes are made faster than they can be moved"))
}

/// Passes controllers on to the cgroups below, as many as the kernel lets us.
pub(super) fn pass_on(dir: &Path, controllers: &[String]) {
    let file = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let missing = missing(controllers, &enabled);
    if missing.is_empty() || fs::write(&file, missing.join(" ")).is_ok() {
        return;
    }
    // All or nothing was nothing: one by one. What cannot be enabled is missing below, which is told there.
    for word in missing {
        let _ = fs::write(&file, word);
    }
}

/// What is to be written to `cgroup.subtree_control`, word by word.
fn missing(controllers: &[String], enabled: &str) -> Vec<String> {
    let is_enabled = |name: &String| enabled.split_whitespace().any(|there| there == name);
    controllers.iter().filter(|name| !is_enabled(name)).map(|name| format!("+{name}")).collect()
}

fn passed_on(hierarchy: &Hierarchy) -> Vec<String> {
    let text = fs::read_to_string(hierarchy.base.join("cgroup.subtree_control")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_is_missing_is_enabled() {
        assert_eq!(missing(&names(&["cpu", "memory", "pids"]), "memory\n"), ["+cpu", "+pids"]);
        assert!(missing(&names(&["cpu"]), "cpuset cpu").is_empty());
        // A name is a whole word.
        assert_eq!(missing(&names(&["cpu"]), "cpuset"), ["+cpu"]);
    }

    #[test]
    fn processes_are_moved_to_the_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::write(path.join("cgroup.procs"), "").unwrap();
        vacate(path).unwrap();
        assert!(!path.join(LEAF).exists(), "nobody was there to move");
        // A plain directory lets nobody go: the wait for that is bounded.
        fs::write(path.join("cgroup.procs"), "0\n17\n").unwrap();
        assert!(vacate(path).unwrap_err().to_string().contains("faster"));
        assert_eq!(fs::read_to_string(path.join(LEAF).join("cgroup.procs")).unwrap(), "17");
        // Those of another pid namespace are left alone.
        fs::write(path.join("cgroup.procs"), "0\n").unwrap();
        vacate(path).unwrap();
    }

    #[test]
    fn the_layout_tells_what_could_be_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("cgroup.procs"), "").unwrap();
        // As if the kernel had refused cpu and memory: the file cannot be written at all.
        let kind = HierarchyKind::V2(names(&["cpu", "memory", "pids"]));
        fs::create_dir(base.join("cgroup.subtree_control")).unwrap();
        let mount = dir.path().to_owned();
        let mut layout =
            Layout { unified_mount: Some(mount.clone()), hierarchies: vec![Hierarchy { kind, mount, base }] };
        settle(&mut layout);
        assert_eq!(layout.hierarchies[0].kind, HierarchyKind::V2(vec![]));
    }

    #[test]
    fn hybrid_hosts_are_left_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("cgroup.procs"), "17\n").unwrap();
        let mount = dir.path().to_owned();
        let kind = HierarchyKind::V2(vec![]);
        let mut layout = Layout { unified_mount: None, hierarchies: vec![Hierarchy { kind, mount, base }] };
        let before = layout.clone();
        settle(&mut layout);
        assert_eq!(layout, before);
        assert!(!layout.hierarchies[0].base.join(LEAF).exists());
    }
}
