//! What can be seen from the node: the processes of a workspace, its gateway, and everything that no attack may change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use cordium_tests::{Context, Result, Workspace, bail, process};

const AGENT: &str = "/run/cordium/bin/cordium-agent";

/// The processes of a running workspace, by their numbers on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pids {
    pub keeper: i32,
    pub init: i32,
}

impl Pids {
    pub fn of(run: &Path, workspace: &Workspace) -> Result<Self> {
        let dir = run.join("ws").join(&workspace.uid);
        let all = process::processes();
        let keeper = all.iter().copied().find(|pid| {
            process::output_of(*pid).is_some_and(|file| file.starts_with(&dir))
                && process::command_line(*pid).is_some_and(|line| line.contains("keeper"))
        });
        let Some(keeper) = keeper else { bail!("{} has no keeper", workspace.name) };
        let init = all.into_iter().find(|pid| {
            parent_of(*pid) == Some(keeper)
                && process::command_line(*pid).is_some_and(|line| line.starts_with(AGENT))
        });
        let Some(init) = init else { bail!("{} has no PID 1", workspace.name) };
        Ok(Self { keeper, init })
    }
}

fn status_field(pid: i32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}

fn parent_of(pid: i32) -> Option<i32> {
    status_field(pid, "PPid:")?.parse().ok()
}

/// A process that has ended is gone, or at most not yet taken note of by its parent.
pub fn is_alive(pid: i32) -> bool {
    status_field(pid, "State:").is_some_and(|state| !state.starts_with('Z'))
}

/// The first id of the node that a workspace's ids stand for.
pub fn first_id(init: i32) -> Result<String> {
    let map = fs::read_to_string(format!("/proc/{init}/uid_map")).context("reading an id map")?;
    Ok(map.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

/// Rules, addresses and routes of a gateway, without its counters.
fn gateway(keeper: i32) -> Result<String> {
    let mut text = String::new();
    for command in ["nft --stateless list ruleset", "ip -oneline address", "ip route show table all"] {
        let net = format!("--net=/proc/{keeper}/ns/net");
        text += &process::run(Command::new("nsenter").arg(net).args(command.split(' ')))?;
    }
    Ok(text)
}

/// Files of the kernel that no tenant may change.
const KERNEL: [&str; 8] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/net/ipv4/ip_forward",
    "/sys/kernel/uevent_helper",
];

/// Everything that must be after an attack as it was before.
pub fn snapshot(
    directories: &[PathBuf],
    programs: &[PathBuf],
    workspaces: &[Pids],
) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for path in KERNEL {
        all.insert(path.to_owned(), fs::read_to_string(path).unwrap_or_default());
    }
    // Not how much of it is used.
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swaps: Vec<&str> = swaps.lines().filter_map(|line| line.split_whitespace().next()).collect();
    all.insert("swap".to_owned(), swaps.join(" "));
    all.insert("binfmt_misc".to_owned(), names(Path::new("/proc/sys/fs/binfmt_misc")).join(" "));
    all.insert("mounts of the node".to_owned(), mounts(directories)?);
    for path in programs {
        let meta = fs::metadata(path).with_context(|| format!("looking at {}", path.display()))?;
        let identity = format!("{} {} {} {}", meta.ino(), meta.len(), meta.mtime_nsec(), meta.ctime_nsec());
        all.insert(path.display().to_string(), identity);
    }
    for dir in directories {
        tree(dir, &mut all);
    }
    for pids in workspaces {
        all.insert(format!("PID 1 of {}", pids.keeper), format!("{} {}", pids.init, is_alive(pids.init)));
        if nix::unistd::geteuid().is_root() {
            all.insert(format!("gateway of {}", pids.keeper), gateway(pids.keeper)?);
        }
    }
    Ok(all)
}

/// Mounts of the machine itself and below these directories; what somebody else mounts meanwhile elsewhere is theirs.
fn mounts(directories: &[PathBuf]) -> Result<String> {
    const OTHERS: [&str; 6] = ["/tmp/", "/var/", "/run/", "/mnt/", "/home/", "/root/"];
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading the node's mounts")?;
    let ours = |line: &&str| {
        let place = line.split(' ').nth(4).unwrap_or_default();
        directories.iter().any(|dir| Path::new(place).starts_with(dir))
            || !OTHERS.iter().any(|other| place.starts_with(other))
    };
    Ok(text.lines().filter(ours).collect::<Vec<_>>().join("\n"))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn tree(dir: &Path, all: &mut BTreeMap<String, String>) {
    for name in names(dir) {
        let path = dir.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let content =
            if meta.is_file() { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let line = format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid());
        all.insert(path.display().to_string(), line);
        if meta.is_dir() {
            tree(&path, all);
        }
    }
}

/// The lines in which two snapshots differ.
pub fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let lines = |all: &BTreeMap<String, String>, key: &str| -> BTreeSet<String> {
        all.get(key).map(|text| text.lines().map(str::to_owned).collect()).unwrap_or_default()
    };
    let mut found = Vec::new();
    for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
        let (old, new) = (lines(before, key), lines(after, key));
        found.extend(old.difference(&new).map(|line| format!("{key}: gone: {line}")));
        found.extend(new.difference(&old).map(|line| format!("{key}: new: {line}")));
        if old == new {
            found.push(format!("{key}: {:?} has become {:?}", before.get(key), after.get(key)));
        }
    }
    found
}

/// IPv6 addresses of a gateway are checked for duplicates for a moment after its start.
pub fn is_settled(keeper: i32) -> Result<bool> {
    Ok(!nix::unistd::geteuid().is_root() || !gateway(keeper)?.contains("tentative"))
}
