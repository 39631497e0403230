//! The delegated cgroup subtrees of a user: `cordium-<uid>` below our own cgroup, or an ancestor of it, in each hierarchy.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The part of the hierarchy that is mounted, and where.
    root: PathBuf,
    at: PathBuf,
    /// The controllers of a v1 hierarchy (or its `name=`); empty for the unified one.
    controllers: BTreeSet<String>,
}

/// Where a supervisor of this user is put in each hierarchy: `cordium-<uid>`, or its `supervisor/` where the set-up made one.
pub fn leaves(uid: u32) -> Vec<PathBuf> {
    let leaf = |dir: PathBuf| Some(dir.join("supervisor")).filter(|leaf| leaf.is_dir()).unwrap_or(dir);
    subtrees(uid).into_iter().map(leaf).collect()
}

/// Every existing directory `cordium-<uid>`.
pub fn subtrees(uid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    candidates(&parse_mounts(&mounts), &own, &format!("cordium-{uid}"))
        .into_iter()
        .filter_map(|hierarchy| hierarchy.into_iter().find(|dir| dir.is_dir()))
        .collect()
}

/// Every hierarchy that limits need has one: a session may be in a cgroup that an earlier set-up did not see.
pub fn is_complete(uid: u32) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let needed: Vec<_> = own.lines().filter(|line| is_needed(line)).collect();
    let found = candidates(&parse_mounts(&mounts), &needed.join("\n"), &format!("cordium-{uid}"));
    !found.is_empty() && found.iter().all(|hierarchy| hierarchy.iter().any(|dir| dir.is_dir()))
}

/// Whether a line of `/proc/self/cgroup` is of the unified hierarchy or of a v1 controller that we use.
fn is_needed(line: &str) -> bool {
    line.split(':').nth(1).is_some_and(|controllers| {
        controllers.split(',').any(|name| matches!(name, "" | "cpu" | "cpuacct" | "memory" | "pids"))
    })
}

/// For each hierarchy the places to look at, nearest first.
fn candidates(mounts: &[Mount], own: &str, name: &str) -> Vec<Vec<PathBuf>> {
    own.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let wanted: BTreeSet<String> =
                controllers.split(',').filter(|c| !c.is_empty()).map(str::to_owned).collect();
            let mount = mounts.iter().find(|mount| mount.controllers == wanted)?;
            let below = Path::new(path).strip_prefix(&mount.root).ok()?;
            Some(below.ancestors().map(|up| mount.at.join(up).join(name)).collect())
        })
        .collect()
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, at) = (left.next()?.into(), left.next()?.into());
    let mut right = right.split(' ');
    let (kind, options) = (right.next()?, right.nth(1)?);
    let controllers = match kind {
        "cgroup2" => BTreeSet::new(),
        "cgroup" => options.split(',').filter(|o| !matches!(*o, "rw" | "ro")).map(str::to_owned).collect(),
        _ => return None,
    };
    Some(Mount { root, at, controllers })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 25 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 25 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
32 25 0:28 / /tmp rw - tmpfs tmpfs rw";

    #[test]
    fn the_hierarchies_of_limits_are_needed() {
        let lines = ["4:memory:/a", "1:cpu,cpuacct:/", "0::/", "9:name=systemd:/", "6:freezer:/"];
        assert_eq!(lines.map(is_needed), [true, true, true, false, false]);
    }

    #[test]
    fn looks_below_the_own_cgroup_and_then_upwards() {
        let found = candidates(&parse_mounts(MOUNTS), "4:memory:/a/b\n9:name=systemd:/\n0::/\n", "cordium-7");
        let expected: [&[&str]; 2] = [
            &[
                "/sys/fs/cgroup/memory/a/b/cordium-7",
                "/sys/fs/cgroup/memory/a/cordium-7",
                "/sys/fs/cgroup/memory/cordium-7",
            ],
            &["/sys/fs/cgroup/unified/cordium-7"],
        ];
        let expected: Vec<Vec<PathBuf>> =
            expected.iter().map(|dirs| dirs.iter().map(PathBuf::from).collect()).collect();
        assert_eq!(found, expected);
    }
}
