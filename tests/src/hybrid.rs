//! What peers need of a machine whose cgroup controllers are on v1 hierarchies.

use std::{fs, path::Path};

use crate::process::sh;

/// On a hybrid layout crun and podman insist on this controller, which nothing else has mounted.
pub fn mount_hugetlb() {
    let at = Path::new("/sys/fs/cgroup/hugetlb");
    let hybrid = Path::new("/sys/fs/cgroup/unified").is_dir();
    if hybrid && !at.is_dir() && fs::create_dir(at).is_ok() {
        let _ = sh("mount", &["-t", "cgroup", "-o", "hugetlb", "cgroup", "/sys/fs/cgroup/hugetlb"]);
    }
}
