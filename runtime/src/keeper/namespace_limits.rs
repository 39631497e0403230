//! What one sandbox may take of the kernel objects that are counted by user namespace.
//!
//! The kernel counts them on every level up to the supervisor's user, for which all workspaces of the node add up: without a
//! bound of its own, one that nests namespaces without end would keep every other from starting.

use std::{fs, path::PathBuf};

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
pub(super) struct NamespaceLimits(Vec<(PathBuf, u64)>);

impl NamespaceLimits {
    pub(super) fn of_node() -> Self {
        Self(SHARES.iter().filter_map(|(name, share)| limit(name, *share)).collect())
    }

    /// Puts them in force for everything below the user namespace that the caller is root of.
    ///
    /// A node that hides these files (a container, say) has its own bounds; the sandbox runs all the same.
    pub(super) fn apply(&self) {
        for (path, limit) in &self.0 {
            if let Err(error) = fs::write(path, limit.to_string()) {
                tracing::warn!(path = %path.display(), %error, "bounding the sandbox's kernel objects");
            }
        }
    }
}

fn limit(name: &str, share: u64) -> Option<(PathBuf, u64)> {
    let path = PathBuf::from(DIR).join(name);
    let node: u64 = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
    Some((path, (node / share).max(1)))
}
