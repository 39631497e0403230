//! Finds the delegated subtree in each hierarchy: a directory `cordium-<uid>` at or above the caller's own cgroup,
//! or, on v2, the highest ancestor that belongs to the caller (what a service manager delegates to a login).

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HierarchyKind {
    /// The unified hierarchy, with the controllers that can be used in the subtree.
    V2(Vec<String>),
    /// A v1 hierarchy and the controllers mounted on it.
    V1(Vec<String>),
}

/// A writable subtree in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub kind: HierarchyKind,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The subtree, below `mount`.
    pub base: PathBuf,
}

impl Hierarchy {
    pub fn controllers(&self) -> &[String] {
        match &self.kind {
            HierarchyKind::V1(names) | HierarchyKind::V2(names) => names,
        }
    }
}

/// What this node's cgroups let us do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Where the unified hierarchy is mounted, writable for us or not.
    pub unified_mount: Option<PathBuf>,
    pub hierarchies: Vec<Hierarchy>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("reading {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
}

/// The v1 controllers that limits and statistics need; the others' hierarchies are left alone.
const WANTED_V1: [&str; 5] = ["cpu", "cpuacct", "memory", "pids", "blkio"];

/// Looks at the hierarchies that the calling process is in.
pub fn probe() -> Result<Layout, ProbeError> {
    let uid = nix::unistd::getuid().as_raw();
    let mounts = parse_mounts(&read("/proc/self/mountinfo")?);
    let own = parse_membership(&read("/proc/self/cgroup")?);
    let mut layout = Layout::default();
    for mount in mounts {
        let v2 = mount.controllers.is_none();
        if v2 {
            layout.unified_mount = Some(mount.path.clone());
        }
        if mount
            .controllers
            .as_ref()
            .is_some_and(|names| !names.iter().any(|name| WANTED_V1.contains(&name.as_str())))
        {
            continue;
        }
        let Some(path) = own.iter().find(|member| member.is_of(&mount)).map(|member| &member.path) else {
            continue;
        };
        // A mount of part of a hierarchy shows us only if we are in that part.
        let Ok(below) = path.strip_prefix(&mount.root) else { continue };
        let Some(base) = find_base(&mount.path, &mount.path.join(below), uid, v2) else { continue };
        let kind = match mount.controllers {
            None => HierarchyKind::V2(words(
                &fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default(),
            )),
            Some(names) => HierarchyKind::V1(names),
        };
        layout.hierarchies.push(Hierarchy { kind, mount: mount.path, base });
    }
    Ok(layout)
}

/// The subtree for a process that is in `here`.
fn find_base(mount: &Path, here: &Path, uid: u32, v2: bool) -> Option<PathBuf> {
    let name = format!("cordium-{uid}");
    let ancestors = || here.ancestors().take_while(|dir| dir.starts_with(mount));
    let within = || ancestors().find(|dir| dir.ends_with(&name)).map(Path::to_owned);
    let delegated =
        || v2.then(|| ancestors().filter(|dir| owned(dir, uid)).last().map(Path::to_owned)).flatten();
    // Last, for v2 lets nobody move a process into a subtree that he is not in, unless he owns what is above both.
    let beside = || ancestors().map(|dir| dir.join(&name)).find(|dir| dir.is_dir());
    within().or_else(delegated).or_else(beside).filter(|dir| writable(dir) && (!v2 || is_domain(dir)))
}

/// A threaded cgroup, or one below it, has no room for processes with a memory limit of their own.
fn is_domain(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.type")).map_or(true, |kind| kind.trim() == "domain")
}

fn owned(dir: &Path, uid: u32) -> bool {
    uid != 0 && fs::metadata(dir).is_ok_and(|meta| meta.uid() == uid)
}

fn writable(dir: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(dir, Access::WRITE_OK).is_ok() && access(dir.join("cgroup.procs"), Access::WRITE_OK).is_ok()
}

fn read(path: &str) -> Result<String, ProbeError> {
    fs::read_to_string(path).map_err(|source| ProbeError::Read { path: path.into(), source })
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct CgroupMount {
    /// The part of the hierarchy that is mounted.
    root: PathBuf,
    path: PathBuf,
    /// `None` for the unified hierarchy.
    controllers: Option<Vec<String>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Membership {
    controllers: Vec<String>,
    path: PathBuf,
}

impl Membership {
    fn is_of(&self, mount: &CgroupMount) -> bool {
        match &mount.controllers {
            None => self.controllers.is_empty(),
            Some(names) => !names.is_empty() && names.iter().all(|name| self.controllers.contains(name)),
        }
    }
}

/// Reads `/proc/self/mountinfo`: fields are `id parent device root mount-point … - type source super-options`. Of two
/// mounts of one hierarchy the first counts.
fn parse_mounts(text: &str) -> Vec<CgroupMount> {
    let mut mounts: Vec<CgroupMount> = Vec::new();
    for mount in text.lines().filter_map(parse_mount) {
        if mounts.iter().all(|there| there.controllers != mount.controllers) {
            mounts.push(mount);
        }
    }
    mounts
}

fn parse_mount(line: &str) -> Option<CgroupMount> {
    let not_controllers = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, path) = (front.next()?.into(), front.next()?.into());
    let mut back = back.split(' ');
    let controllers = match back.next()? {
        "cgroup2" => None,
        "cgroup" => {
            let options = back.nth(1)?.split(',');
            let names = options
                .filter(|option| !not_controllers.contains(option) && !option.starts_with("release_agent"));
            Some(names.map(str::to_owned).collect())
        }
        _ => return None,
    };
    Some(CgroupMount { root, path, controllers })
}

/// Reads `/proc/self/cgroup`: lines are `id:controllers:path`.
fn parse_membership(text: &str) -> Vec<Membership> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers =
                fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some(Membership { controllers, path: fields.next()?.into() })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 24 0:22 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
26 24 0:23 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
27 24 0:24 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
28 1 8:1 / / rw - ext4 /dev/vda rw\n";

    #[test]
    fn mounts_of_both_versions_are_found() {
        let mounts = parse_mounts(MOUNTS);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].controllers.as_deref(), Some(&["cpu".to_owned()][..]));
        assert_eq!(mounts[1].controllers.as_deref(), Some(&["name=systemd".to_owned()][..]));
        let unified =
            CgroupMount { root: "/".into(), path: "/sys/fs/cgroup/unified".into(), controllers: None };
        assert_eq!(mounts[2], unified);
    }

    #[test]
    fn the_second_mount_of_a_hierarchy_does_not_count() {
        let text = "30 1 0:26 /pod/a /sys/fs/cgroup rw - cgroup2 cgroup rw,nsdelegate\n\
                    31 1 0:26 / /host/cgroup rw - cgroup2 cgroup rw\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!(
            (mounts[0].root.as_path(), mounts[0].path.as_path()),
            (Path::new("/pod/a"), Path::new("/sys/fs/cgroup"))
        );
    }

    /// A directory that looks like a cgroup of ours.
    fn cgroup(dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.procs"), "").unwrap();
        dir.to_owned()
    }

    #[test]
    fn the_subtree_that_we_are_in_comes_before_one_beside() {
        let root = tempfile::tempdir().unwrap();
        let mount = root.path();
        let beside = cgroup(&mount.join("cordium-4242"));
        let here = cgroup(&mount.join("slice/cordium-4242/supervisor"));
        let within = cgroup(&mount.join("slice/cordium-4242"));
        assert_eq!(find_base(mount, &here, 4242, true), Some(within));
        let elsewhere = cgroup(&mount.join("other/session"));
        assert_eq!(find_base(mount, &elsewhere, 4242, true), Some(beside));
        assert_eq!(find_base(mount, &elsewhere, 4243, true), None);
    }

    #[test]
    fn a_threaded_cgroup_is_no_subtree_for_workspaces() {
        let root = tempfile::tempdir().unwrap();
        let base = cgroup(&root.path().join("cordium-4242"));
        for (kind, usable) in [("domain\n", true), ("domain threaded\n", false), ("threaded\n", false)] {
            fs::write(base.join("cgroup.type"), kind).unwrap();
            assert_eq!(find_base(root.path(), &base, 4242, true).is_some(), usable, "{kind}");
        }
        // v1 has no such thing.
        assert!(find_base(root.path(), &base, 4242, false).is_some());
    }

    #[test]
    fn membership_is_matched_to_its_mount() {
        let own = parse_membership("4:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c/d\n");
        let mounts = parse_mounts(MOUNTS);
        let path = |i: usize| own.iter().find(|m| m.is_of(&mounts[i])).map(|m| m.path.clone());
        assert_eq!(path(0), Some("/a".into()));
        assert_eq!(path(1), Some("/b".into()));
        assert_eq!(path(2), Some("/c/d".into()));
    }
}
