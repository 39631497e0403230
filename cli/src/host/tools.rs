//! Programs that the runtime calls, and the room on the disk.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::check::{Check, Level};
use crate::{output::duration, paths};

const SETUID: u32 = 0o4000;

/// newuidmap and newgidmap: present, and with the privilege that they need.
pub fn id_map_helpers() -> Vec<Check> {
    [("newuidmap", "cap_setuid"), ("newgidmap", "cap_setgid")]
        .into_iter()
        .map(|(name, capability)| {
            let Some(path) = paths::find_on_path(name) else {
                return Check::fail(name, "not found", "sudo apt-get install uidmap");
            };
            let meta = fs::metadata(&path);
            let setuid = meta.is_ok_and(|m| m.uid() == 0 && m.mode() & SETUID != 0);
            let how = if setuid {
                "setuid root"
            } else if has_file_capabilities(&path) {
                "file capabilities"
            } else if rustix::process::geteuid().is_root() {
                "we are root"
            } else {
                let fix = format!("sudo setcap {capability}+ep {}", path.display());
                return Check::fail(
                    name,
                    format!("{} has neither setuid nor file capabilities", path.display()),
                    fix,
                );
            };
            Check::ok(name, format!("{} ({how})", path.display()))
        })
        .collect()
}

fn has_file_capabilities(path: &Path) -> bool {
    let mut value = [0_u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok_and(|n| n > 0)
}

pub fn programs() -> Vec<Check> {
    let nft = match paths::find_on_path("nft") {
        Some(path) => Check::ok("nft", path.display().to_string()),
        None => Check::fail("nft", "not found", "sudo apt-get install nftables"),
    };
    let git = match paths::find_on_path("git") {
        Some(path) => Check::ok("git", path.display().to_string()),
        None => {
            Check::warn("git", "not found; clones then need git in the image", "sudo apt-get install git")
        }
    };
    let supervisor = match paths::find_sibling("cordium-supervisor") {
        Some(path) => Check::ok("cordium-supervisor", path.display().to_string()),
        None => Check::fail(
            "cordium-supervisor",
            "neither beside cordium nor on PATH",
            "cargo build -p cordium-supervisor -p cordium-agent, or put both on PATH",
        ),
    };
    vec![nft, git, supervisor]
}

/// Room for images and workspaces, and a filesystem on which an overlay can keep its upper directory.
pub fn disk(state_dir: &Path) -> Check {
    const NAME: &str = "disk space";
    let place = state_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let Ok(fs) = rustix::fs::statvfs(place) else {
        return Check::warn(
            NAME,
            format!("cannot look at {}", place.display()),
            "check the directory's permissions",
        );
    };
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    let found = format!("{} free at {}", duration::bytes(free), place.display());
    let fix = "free some, or choose another disk with --state-dir";
    let level = match free >> 30 {
        0 => Level::Fail,
        1..5 => Level::Warn,
        _ => return Check::ok(NAME, found),
    };
    Check { name: NAME, level, found, fix: Some(fix.to_owned()) }
}
