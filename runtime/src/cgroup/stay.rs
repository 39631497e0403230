//! A keeper's stay in `box`: it enters, lets the container be born there, and leaves.
//!
//! On v1 that is the only way in, for a process enters a hierarchy by its own user's hand or not at all. On v2 it is the
//! cheap one: the first move of any process costs a grace period of the kernel (5 to 20 ms), those right after it next to
//! nothing. A keeper that is made ahead pays it before anybody waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::UNIX_EPOCH,
};

use super::{
    probe::{Hierarchy, HierarchyKind},
    tree::{CgroupError, CgroupPlan, Leaf},
};

/// What the directories of keepers that were made ahead are called: `keeper-<pid of the supervisor>-<when it began>-<number>`.
const AHEAD: &str = "keeper-";

/// The calling process is in `box`, but for the hierarchies that refused it.
#[derive(Debug)]
pub(crate) struct Stay {
    plan: CgroupPlan,
    /// Where the process came from, in the order of the plan's hierarchies.
    origins: Vec<Option<PathBuf>>,
    refused: Vec<PathBuf>,
}

impl Stay {
    /// A hierarchy refuses when the caller comes from outside the delegated subtree.
    pub(crate) fn begin(plan: &CgroupPlan) -> Result<Self, CgroupError> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let origins = plan.hierarchies.iter().map(|hierarchy| origin(hierarchy, &own)).collect();
        let mut refused = Vec::new();
        for hierarchy in &plan.hierarchies {
            let path = plan.dir(hierarchy, Leaf::Box).join("cgroup.procs");
            match fs::write(&path, "0") {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused.push(path),
                Err(source) => return Err(CgroupError::Enter { path, source }),
            }
        }
        Ok(Self { plan: plan.clone(), origins, refused })
    }

    /// The hierarchies that could not be entered, for warnings.
    pub(crate) fn refused(&self) -> &[PathBuf] {
        &self.refused
    }

    /// Whether what the process forks is born in `box` of the unified hierarchy.
    pub(crate) fn is_in_unified(&self) -> bool {
        self.plan.unified().is_some_and(|unified| {
            !self.refused.contains(&self.plan.dir(unified, Leaf::Box).join("cgroup.procs"))
        })
    }

    /// Moves on to `keeper`, once the container was born.
    pub(crate) fn end(self) -> Result<(), CgroupError> {
        for hierarchy in &self.plan.hierarchies {
            if self.refused.contains(&self.plan.dir(hierarchy, Leaf::Box).join("cgroup.procs")) {
                continue;
            }
            let path = self.plan.dir(hierarchy, Leaf::Keeper).join("cgroup.procs");
            fs::write(&path, "0").map_err(|source| CgroupError::Enter { path, source })?;
        }
        Ok(())
    }

    /// Goes back to where the process came from and removes what was made for it. Best effort: what stays is empty,
    /// and the next supervisor removes it.
    pub(crate) fn undo(self) {
        for (hierarchy, origin) in self.plan.hierarchies.iter().zip(&self.origins) {
            if let Some(origin) = origin {
                let _ = fs::write(origin.join("cgroup.procs"), "0");
            }
            remove_empty(&hierarchy.base.join(&self.plan.id));
        }
    }
}

/// The directory of the process in one hierarchy, by the text of its `/proc/self/cgroup`: `id:controllers:path`.
fn origin(hierarchy: &Hierarchy, own: &str) -> Option<PathBuf> {
    own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let mut names = fields.next()?.split(',');
        let path = fields.next()?;
        let is_it = match &hierarchy.kind {
            HierarchyKind::V1(controllers) => names.any(|name| controllers.iter().any(|own| own == name)),
            HierarchyKind::V2(_) => names.next() == Some(""),
        };
        is_it.then(|| hierarchy.mount.join(path.trim_start_matches('/')))
    })
}

fn remove_empty(dir: &Path) {
    for leaf in [Leaf::Box, Leaf::Keeper] {
        let _ = fs::remove_dir(dir.join(leaf.name()));
    }
    let _ = fs::remove_dir(dir);
}

/// Of one process; pids come back while sandboxes of an earlier owner live, the time does not.
#[derive(Debug, PartialEq, Eq)]
struct Maker {
    pid: u32,
    began: u64,
}

impl Maker {
    fn own() -> Self {
        static BEGAN: OnceLock<u64> = OnceLock::new();
        let now = || UNIX_EPOCH.elapsed().map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        Self { pid: std::process::id(), began: *BEGAN.get_or_init(now) }
    }

    /// Reads a name that [`name_ahead`] made.
    fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(AHEAD)?.split('-');
        let maker =
            Self { pid: parts.next()?.parse().ok()?, began: u64::from_str_radix(parts.next()?, 16).ok()? };
        parts.next()?.parse::<u64>().ok()?;
        parts.next().is_none().then_some(maker)
    }

    fn is_gone(&self) -> bool {
        let own = Self::own();
        if self.pid == own.pid { *self != own } else { !Path::new(&format!("/proc/{}", self.pid)).exists() }
    }
}

/// What the cgroup of the `number`th keeper of this process is called.
pub(crate) fn name_ahead(number: u64) -> String {
    let Maker { pid, began } = Maker::own();
    format!("{AHEAD}{pid}-{began:x}-{number}")
}

/// Removes what supervisors that are gone made ahead and nobody is in. A sandbox that outlived its supervisor is not
/// empty and keeps its own.
pub(crate) fn remove_abandoned(hierarchies: &[Hierarchy]) {
    for hierarchy in hierarchies {
        for entry in fs::read_dir(&hierarchy.base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(Maker::of).is_some_and(|maker| maker.is_gone()) {
                remove_empty(&entry.path());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hierarchy(kind: HierarchyKind, base: &Path) -> Hierarchy {
        Hierarchy { kind, mount: "/sys/fs/cgroup/x".into(), base: base.into() }
    }

    #[test]
    fn where_a_process_came_from_is_found_for_both_versions() {
        let own = "5:cpu,cpuacct:/a/b\n1:name=systemd:/s\n0::/u\n";
        let v1 = hierarchy(HierarchyKind::V1(vec!["cpuacct".into()]), Path::new("/"));
        let v2 = hierarchy(HierarchyKind::V2(vec![]), Path::new("/"));
        assert_eq!(origin(&v1, own), Some("/sys/fs/cgroup/x/a/b".into()));
        assert_eq!(origin(&v2, own), Some("/sys/fs/cgroup/x/u".into()));
        assert_eq!(origin(&v2, "1:cpu:/a\n"), None);
    }

    #[test]
    fn only_what_a_dead_supervisor_made_ahead_is_abandoned() {
        let base = tempfile::tempdir().unwrap();
        // Beyond what a kernel gives out.
        let dead = format!("{AHEAD}4194305-19a-0");
        let before = format!("{AHEAD}{}-1-0", std::process::id());
        let alive = format!("{AHEAD}1-19a-0");
        let own = name_ahead(7);
        assert_eq!(Maker::of(&own), Some(Maker::own()));
        let others =
            ["0198c0de-0000-7000-8000-000000000001", "keeper-x-1a-1", "keeper-4194305-0", "supervisor"];
        for name in others.into_iter().chain([&dead, &before, &alive, &own].map(String::as_str)) {
            fs::create_dir_all(base.path().join(name).join("box")).unwrap();
            fs::create_dir(base.path().join(name).join("keeper")).unwrap();
        }
        remove_abandoned(&[hierarchy(HierarchyKind::V2(vec![]), base.path())]);
        for gone in [dead, before] {
            assert!(!base.path().join(&gone).exists(), "{gone}");
        }
        for kept in others.into_iter().chain([&alive, &own].map(String::as_str)) {
            assert!(base.path().join(kept).join("box").exists(), "{kept}");
        }
    }

    #[test]
    fn what_is_not_empty_is_not_abandoned() {
        let base = tempfile::tempdir().unwrap();
        let used = base.path().join(format!("{AHEAD}4194305-19a-1/box/inner"));
        fs::create_dir_all(&used).unwrap();
        remove_abandoned(&[hierarchy(HierarchyKind::V2(vec![]), base.path())]);
        assert!(used.exists());
    }
}
