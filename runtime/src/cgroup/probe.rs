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
        let here = mount.path.join(path.strip_prefix("/").unwrap_or(path));
        let Some(base) = find_base(&mount.path, &here, uid, v2) else { continue };
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

fn find_base(mount: &Path, here: &Path, uid: u32, v2: bool) -> Option<PathBuf> {
    let name = format!("cordium-{uid}");
    let ancestors = || here.ancestors().take_while(|dir| dir.starts_with(mount));
    let named = ancestors()
        .find(|dir| dir.file_name().is_some_and(|last| last.to_string_lossy() == name))
        .map(Path::to_owned)
        .or_else(|| ancestors().map(|dir| dir.join(&name)).find(|dir| dir.is_dir()));
    let delegated =
        || v2.then(|| ancestors().filter(|dir| owned(dir, uid)).last().map(Path::to_owned)).flatten();
    named.or_else(delegated).filter(|dir| writable(dir))
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

/// Reads `/proc/self/mountinfo`: fields are `… root mount-point options - type source super-options`.
fn parse_mounts(text: &str) -> Vec<CgroupMount> {
    let not_controllers = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    text.lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let path = PathBuf::from(front.split(' ').nth(4)?);
            let mut back = back.split(' ');
            match back.next()? {
                "cgroup2" => Some(CgroupMount { path, controllers: None }),
                "cgroup" => {
                    let options = back.nth(1)?.split(',');
                    let names = options
                        .filter(|option| {
                            !not_controllers.contains(option) && !option.starts_with("release_agent")
                        })
                        .map(str::to_owned)
                        .collect();
                    Some(CgroupMount { path, controllers: Some(names) })
                }
                _ => None,
            }
        })
        .collect()
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
        assert_eq!(mounts[2], CgroupMount { path: "/sys/fs/cgroup/unified".into(), controllers: None });
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
