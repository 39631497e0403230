//! The plan that gives a user a cgroup subtree, and the small interpreter that carries it out.
//!
//! On v2 only the subtree's root directory and the files that a delegatee needs change hands; on v1 a subtree is
//! given with all its files, for there is nothing between a limit and its owner. Everything may be done twice.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{cgroup::Hierarchy, users::User};

const V2_FILES: [&str; 4] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control", "memory.oom.group"];
const V2_CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Best effort: what cannot be enabled is told, and its limit is not enforced.
    EnableControllers {
        dir: PathBuf,
        controllers: Vec<String>,
    },
    Mkdir(PathBuf),
    /// A v1 cpuset is born without any cpu or memory node.
    CopyCpuset {
        from: PathBuf,
        to: PathBuf,
    },
    Chown {
        path: PathBuf,
        uid: u32,
        gid: u32,
    },
    /// Every file in the directory, and the directory.
    ChownAll {
        dir: PathBuf,
        uid: u32,
        gid: u32,
    },
    /// Moves a process into a leaf of the subtree.
    Enter {
        dir: PathBuf,
        pid: u32,
    },
}

/// What is to be done for this user in these hierarchies.
pub fn plan(hierarchies: &[Hierarchy], user: &User, enter: Option<u32>) -> Vec<Step> {
    let mut steps = Vec::new();
    let (uid, gid) = (user.uid, user.gid);
    for h in hierarchies {
        let dir = h.delegated(uid).unwrap_or_else(|| home(h).join(format!("cordium-{uid}")));
        if h.is_unified() {
            let controllers = V2_CONTROLLERS.map(str::to_owned).to_vec();
            // From the top down, for a controller can be enabled only where the parent has it.
            let parent = dir.parent().unwrap_or(&h.mount);
            let mut above: Vec<&Path> = parent.ancestors().take_while(|d| d.starts_with(&h.mount)).collect();
            above.reverse();
            steps.extend(
                above.iter().map(|d| Step::EnableControllers {
                    dir: (*d).to_owned(),
                    controllers: controllers.clone(),
                }),
            );
            steps.push(Step::Mkdir(dir.clone()));
            steps.push(Step::Chown { path: dir.clone(), uid, gid });
            steps.extend(V2_FILES.map(|f| Step::Chown { path: dir.join(f), uid, gid }));
            // Only from within the subtree may its owner move processes about in it, and only leaves hold processes.
            let leaf = dir.join("supervisor");
            steps.push(Step::Mkdir(leaf.clone()));
            steps.push(Step::ChownAll { dir: leaf.clone(), uid, gid });
            steps.extend(enter.map(|pid| Step::Enter { dir: leaf, pid }));
        } else {
            steps.push(Step::Mkdir(dir.clone()));
            if h.has("cpuset") {
                let from = dir.parent().unwrap_or(&h.mount).to_owned();
                steps.push(Step::CopyCpuset { from, to: dir.clone() });
            }
            steps.push(Step::ChownAll { dir, uid, gid });
        }
    }
    steps
}

/// Where the subtree goes: our own cgroup, or, on v2, the nearest above it that hands controllers down. A v2 cgroup
/// with processes of its own cannot do that, the root excepted.
fn home(h: &Hierarchy) -> PathBuf {
    if !h.is_unified() {
        return h.own.clone();
    }
    let above = || h.own.ancestors().take_while(|d| d.starts_with(&h.mount));
    above()
        .find(|dir| *dir == h.mount || !has_processes(dir))
        .or_else(|| above().last())
        .map_or_else(|| h.mount.clone(), Path::to_owned)
}

fn has_processes(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.procs")).map_or(true, |procs| !procs.trim().is_empty())
}

/// Does one step; `Ok(false)` when there was nothing to do.
pub fn run(step: &Step) -> io::Result<bool> {
    match step {
        Step::EnableControllers { dir, controllers } => enable(dir, controllers),
        Step::Mkdir(dir) => match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true),
        },
        Step::CopyCpuset { from, to } => copy_cpuset(from, to),
        Step::Chown { path, uid, gid } => chown(path, *uid, *gid),
        Step::ChownAll { dir, uid, gid } => {
            let mut changed = chown(dir, *uid, *gid)?;
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    changed |= chown(&entry.path(), *uid, *gid)?;
                }
            }
            Ok(changed)
        }
        Step::Enter { dir, pid } => fs::write(dir.join("cgroup.procs"), pid.to_string()).map(|()| true),
    }
}

fn enable(dir: &Path, wanted: &[String]) -> io::Result<bool> {
    let read = |name: &str| fs::read_to_string(dir.join(name));
    let (available, enabled) = (read("cgroup.controllers")?, read("cgroup.subtree_control")?);
    let has = |text: &str, name: &String| text.split_whitespace().any(|c| c == name);
    let mut changed = false;
    let mut refused = None;
    for name in wanted.iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
        match fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")) {
            Ok(()) => changed = true,
            Err(e) => refused = Some(io::Error::new(e.kind(), format!("{name}: {e}"))),
        }
    }
    refused.map_or(Ok(changed), Err)
}

fn copy_cpuset(from: &Path, to: &Path) -> io::Result<bool> {
    let mut changed = false;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(to.join(file))?.trim().is_empty() {
            fs::write(to.join(file), fs::read_to_string(from.join(file))?.trim())?;
            changed = true;
        }
    }
    // So that the cgroups below are born with them.
    let clone = to.join("cgroup.clone_children");
    if fs::read_to_string(&clone)?.trim() == "0" {
        fs::write(&clone, "1")?;
        changed = true;
    }
    Ok(changed)
}

fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    if meta.uid() == uid && meta.gid() == gid {
        return Ok(false);
    }
    std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map(|()| true)
}

impl Step {
    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        let owned = |path: &Path, uid: u32, gid: u32| {
            fs::symlink_metadata(path).is_ok_and(|m| m.uid() == uid && m.gid() == gid)
        };
        match self {
            Self::EnableControllers { dir, controllers } => {
                let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
                let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
                let has = |text: &str, name: &String| text.split_whitespace().any(|c| c == name);
                controllers.iter().all(|name| !has(&available, name) || has(&enabled, name))
            }
            Self::Mkdir(dir) => dir.is_dir(),
            Self::CopyCpuset { to, .. } => {
                let filled =
                    |file: &str| fs::read_to_string(to.join(file)).is_ok_and(|t| !t.trim().is_empty());
                filled("cpuset.cpus") && filled("cpuset.mems")
            }
            // A file that the kernel does not offer there needs no owner.
            Self::Chown { path, uid, gid } => {
                owned(path, *uid, *gid) || (path.parent().is_some_and(Path::is_dir) && !path.exists())
            }
            Self::ChownAll { dir, uid, gid } => {
                let all = |mut entries: fs::ReadDir| {
                    entries.all(|e| {
                        e.is_ok_and(|e| {
                            e.file_type().is_ok_and(|t| !t.is_file()) || owned(&e.path(), *uid, *gid)
                        })
                    })
                };
                owned(dir, *uid, *gid) && fs::read_dir(dir).is_ok_and(all)
            }
            Self::Enter { .. } => false,
        }
    }

    /// A step without which the rest still makes sense.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::EnableControllers { .. })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnableControllers { dir, controllers } => {
                write!(f, "enable {} below {}", controllers.join(" "), dir.display())
            }
            Self::Mkdir(dir) => write!(f, "mkdir {}", dir.display()),
            Self::CopyCpuset { from, to } => {
                write!(f, "copy cpus and mems of {} to {}", from.display(), to.display())
            }
            Self::Chown { path, uid, gid } => write!(f, "chown {uid}:{gid} {}", path.display()),
            Self::ChownAll { dir, uid, gid } => write!(f, "chown {uid}:{gid} {0} {0}/*", dir.display()),
            Self::Enter { dir, pid } => write!(f, "move process {pid} to {}", dir.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hierarchy(mount: &Path, own: &str, controllers: &[&str]) -> Hierarchy {
        Hierarchy {
            mount: mount.to_owned(),
            own: mount.join(own),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        }
    }

    fn ann() -> User {
        User { name: "ann".into(), uid: 1000, gid: 100 }
    }

    #[test]
    fn v1_gives_the_whole_directory() {
        let mount = Path::new("/nowhere/cpuset");
        let steps = plan(&[hierarchy(mount, "a", &["cpuset"])], &ann(), None);
        let dir = mount.join("a/cordium-1000");
        assert_eq!(
            steps,
            [
                Step::Mkdir(dir.clone()),
                Step::CopyCpuset { from: mount.join("a"), to: dir.clone() },
                Step::ChownAll { dir, uid: 1000, gid: 100 }
            ]
        );
    }

    #[test]
    fn v2_goes_above_a_cgroup_with_processes() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("slice/session");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("cgroup.procs"), "7\n").unwrap();
        fs::write(root.path().join("slice/cgroup.procs"), "").unwrap();
        let steps = plan(&[hierarchy(root.path(), "slice/session", &[])], &ann(), Some(9));
        let dir = root.path().join("slice/cordium-1000");
        assert!(steps.contains(&Step::Mkdir(dir.clone())), "{steps:?}");
        assert!(steps.contains(&Step::Chown { path: dir.join("cgroup.procs"), uid: 1000, gid: 100 }));
        assert!(!steps.iter().any(|s| matches!(s, Step::Chown { path, .. } if path.ends_with("memory.max"))));
        assert_eq!(steps.last(), Some(&Step::Enter { dir: dir.join("supervisor"), pid: 9 }));
        let enabled: Vec<_> = steps
            .iter()
            .filter_map(|s| match s {
                Step::EnableControllers { dir, .. } => Some(dir.as_path()),
                _ => None,
            })
            .collect();
        assert_eq!(enabled, [root.path(), &root.path().join("slice")]);
    }

    #[test]
    fn an_existing_subtree_is_used_again_and_steps_may_be_repeated() {
        let root = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let me = User { name: "me".into(), uid, gid };
        fs::create_dir_all(root.path().join("a/b")).unwrap();
        let h = hierarchy(root.path(), "a/b", &["memory"]);
        for step in plan(std::slice::from_ref(&h), &me, None) {
            run(&step).unwrap();
        }
        let dir = root.path().join(format!("a/b/cordium-{uid}"));
        assert!(dir.is_dir());
        // From deeper down, the same one is found.
        let deeper = hierarchy(root.path(), &format!("a/b/cordium-{uid}/x"), &["memory"]);
        let again = plan(&[deeper], &me, None);
        assert_eq!(again[0], Step::Mkdir(dir));
        assert!(again.iter().all(|s| s.is_done() && !run(s).unwrap()));
    }

    #[test]
    fn a_cpuset_is_filled_once() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("f"), root.path().join("t"));
        for (dir, value) in [(&from, "0-1\n"), (&to, "\n")] {
            fs::create_dir(dir).unwrap();
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(dir.join(file), value).unwrap();
            }
            fs::write(dir.join("cgroup.clone_children"), "0\n").unwrap();
        }
        assert!(copy_cpuset(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(to.join("cpuset.cpus")).unwrap(), "0-1");
        assert!(!copy_cpuset(&from, &to).unwrap());
    }
}
