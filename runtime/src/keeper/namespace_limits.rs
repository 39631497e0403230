//! What one sandbox may take of the kernel objects that are counted by user namespace.
//!
//! The kernel counts them on every level up to the supervisor's user, for which all workspaces of the node add up: without a
//! bound of its own, one that nests namespaces without end would keep every other from starting.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::masked;
use crate::Limits;

const DIR: &str = "/proc/sys/user";

/// Each limit and the part of the node's that one sandbox gets. Watches are what large source trees need.
const SHARES: [(&str, u64); 10] = [
    ("max_user_namespaces", 4),
    ("max_mnt_namespaces", 4),
    ("max_pid_namespaces", 4),
    ("max_net_namespaces", 4),
    ("max_ipc_namespaces", 4),
    ("max_uts_namespaces", 4),
    ("max_cgroup_namespaces", 4),
    ("max_time_namespaces", 4),
    ("max_inotify_instances", 2),
    ("max_inotify_watches", 2),
];

/// The limits for a new user namespace; to be read before it is entered, where the node's own are seen.
pub(super) struct NamespaceLimits(Vec<(&'static str, u64)>);

impl NamespaceLimits {
    pub(super) fn of_node() -> Self {
        Self(SHARES.iter().filter_map(|(name, share)| limit(name, *share)).collect())
    }

    /// Puts them in force for everything below the user namespace that the caller is root of.
    ///
    /// Engines make `/proc/sys` read-only in a container; another procfs serves as well, because these files are those of
    /// whoever opens them. A node that has none has bounds of its own; the sandbox runs all the same. False then.
    pub(super) fn apply(&self) -> bool {
        let mut all = true;
        let mut dir = PathBuf::from(DIR);
        for (name, limit) in &self.0 {
            let mut written = write(&dir, name, *limit);
            if let Err(error) = &written
                && error.kind() == io::ErrorKind::ReadOnlyFilesystem
                && let Some(other) = masked::other_procfs()
            {
                dir = other.join("sys/user");
                written = write(&dir, name, *limit);
            }
            if let Err(error) = written {
                all = false;
                tracing::warn!(limit = name, %error, "bounding the sandbox's kernel objects");
                if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
                    break;
                }
            }
        }
        all
    }
}

/// The spec's own wishes, in place of the shares; what the node does not have comes back as warnings, in words.
/// `own_inotify` is what the keeper itself takes of instances, and of watches.
pub(super) fn apply_asked(limits: &Limits, own_inotify: u64) -> Vec<String> {
    let asked = [
        ("max_inotify_instances", "inotify instances", limits.inotify_instances, own_inotify),
        ("max_inotify_watches", "inotify watches", limits.inotify_watches, own_inotify),
        // One of them is the sandbox's own.
        ("max_user_namespaces", "user namespaces", limits.user_namespaces, 1),
    ];
    let mut warnings = Vec::new();
    for (name, what, wanted, own) in asked.into_iter().filter(|(_, _, wanted, _)| *wanted != 0) {
        let limit = wanted.saturating_add(own).min(i32::MAX.unsigned_abs().into());
        let share = SHARES.iter().find(|(known, _)| *known == name).map_or(1, |(_, share)| *share);
        let node = read(name).map(|current| current.saturating_mul(share));
        let only = NamespaceLimits(vec![(name, limit)]);
        if !only.apply() {
            warnings
                .push(format!("{what} limit is not enforced: this node's /proc/sys/user cannot be written"));
        } else if let Some(node) = node.filter(|node| wanted > *node) {
            warnings.push(format!("{what} limit: {wanted} asked, {node} is all that the node has"));
        }
    }
    warnings
}

fn read(name: &str) -> Option<u64> {
    fs::read_to_string(Path::new(DIR).join(name)).ok()?.trim().parse().ok()
}

fn write(dir: &Path, name: &str, limit: u64) -> io::Result<()> {
    fs::write(dir.join(name), limit.to_string())
}

fn limit(name: &'static str, share: u64) -> Option<(&'static str, u64)> {
    Some((name, (read(name)? / share).max(1)))
}
