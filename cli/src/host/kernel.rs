//! What the kernel offers: settings that are read, and calls that are tried.

use std::{fs, path::Path};

use super::{
    check::Check,
    probe::{self, Findings},
};
use crate::sys;

pub fn checks(state_dir: &Path) -> Vec<Check> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut checks = vec![version(release.trim())];
    checks.extend(sysctls(&read_sysctl));
    match probe::findings(state_dir) {
        Ok(found) => checks.extend(tried(&found)),
        Err(e) => checks.push(Check::fail(
            "namespaces",
            e,
            "run `cordium doctor` as the user that will run workspaces",
        )),
    }
    checks.push(seccomp());
    checks.push(landlock());
    checks.extend(calls());
    checks
}

fn version(release: &str) -> Check {
    const NAME: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= (5, 14) {
        Check::ok(NAME, release)
    } else {
        // Unprivileged overlay mounts came with 5.11, cgroup.kill with 5.14.
        Check::fail(
            NAME,
            format!("{release} is older than 5.14"),
            "install a newer kernel, for example from backports",
        )
    }
}

fn read_sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?.trim().parse().ok()
}

/// Settings that switch user namespaces off; one that does not exist does not.
fn sysctls(read: &dyn Fn(&str) -> Option<u64>) -> Vec<Check> {
    let mut checks = Vec::new();
    if read("kernel.unprivileged_userns_clone") == Some(0) {
        checks.push(Check::fail(
            "unprivileged_userns_clone",
            "0: ordinary users may make no user namespace",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ));
    }
    if let Some(max) = read("user.max_user_namespaces").filter(|max| *max < 256) {
        checks.push(Check::fail(
            "max_user_namespaces",
            format!("{max} is too few: each workspace needs at least 2"),
            "sudo sysctl -w user.max_user_namespaces=65536",
        ));
    }
    if read("kernel.apparmor_restrict_unprivileged_userns") == Some(1) {
        checks.push(Check::warn(
            "apparmor_restrict_unprivileged_userns",
            "1: AppArmor takes the privileges from user namespaces of programs without a profile",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give cordium-supervisor a profile \
             with `userns,`",
        ));
    }
    checks
}

fn tried(found: &Findings) -> Vec<Check> {
    const ALL: [(&str, &str, &str); 10] = [
        (
            "userns",
            "user namespace",
            "sudo sysctl -w user.max_user_namespaces=65536; in a container: allow unshare(CLONE_NEWUSER)",
        ),
        ("mntns", "mount namespace", "in a container: use a seccomp profile that allows unshare and mount"),
        ("netns", "network namespace", "sudo sysctl -w user.max_net_namespaces=65536"),
        ("utsns", "uts namespace", "sudo sysctl -w user.max_uts_namespaces=65536"),
        ("ipcns", "ipc namespace", "sudo sysctl -w user.max_ipc_namespaces=65536"),
        ("cgroupns", "cgroup namespace", "sudo sysctl -w user.max_cgroup_namespaces=65536"),
        (
            "overlay",
            "overlay in a user namespace",
            "put the state directory on ext4, xfs or btrfs: --state-dir DIR",
        ),
        ("veth", "veth", "sudo modprobe veth"),
        (
            "nft",
            "nftables redirect",
            "sudo apt-get install nftables; sudo modprobe -a nf_tables nft_redir nft_chain_nat nft_tproxy",
        ),
        (
            "proc",
            "new proc in a user namespace",
            "in a container: make one unmasked procfs visible (hostPath /proc, or procMount: Unmasked)",
        ),
    ];
    ALL.iter()
        .filter_map(|(key, name, fix)| match found.get(*key) {
            Some(Ok(())) => Some(Check::ok(name, "works")),
            Some(Err(e)) => Some(Check::fail(name, e.clone(), *fix)),
            // What comes after a user namespace that could not be made was not tried.
            None => None,
        })
        .collect()
}

fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    const FIX: &str = "use a kernel with CONFIG_SECCOMP_FILTER";
    match fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|a| a == "errno") => Check::ok(NAME, actions.trim()),
        Ok(actions) => Check::fail(NAME, format!("only {}", actions.trim()), FIX),
        Err(e) => Check::fail(NAME, format!("no filters: {e}"), FIX),
    }
}

fn landlock() -> Check {
    const NAME: &str = "landlock";
    match sys::landlock_abi() {
        Ok(version) => landlock_of(version),
        Err(e) => Check::warn(
            NAME,
            format!("{}; unpackers, the broker and keepers run with seccomp only", e.desc()),
            "add landlock to the kernel's lsm= parameter",
        ),
    }
}

/// What unpackers, the broker and keepers give up by Landlock, and the version that knows it.
const LANDLOCK: [(i64, &str); 4] = [
    (2, "moving files between directories"),
    (3, "truncating files"),
    (4, "TCP ports"),
    (6, "abstract unix sockets"),
];

fn landlock_of(version: i64) -> Check {
    let missing: Vec<_> =
        LANDLOCK.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect();
    if missing.is_empty() {
        return Check::ok("landlock", format!("ABI {version}"));
    }
    Check::warn(
        "landlock",
        format!(
            "ABI {version} has no rules for {}: seccomp and namespaces alone hold there",
            missing.join(", ")
        ),
        "use a kernel of 6.12 or later",
    )
}

fn calls() -> Vec<Check> {
    let result = |name: &'static str, result: Result<(), String>| match result {
        Ok(()) => Check::ok(name, "works"),
        Err(e) => {
            Check::fail(name, e, "use a newer kernel; in a container: a seccomp profile that allows it")
        }
    };
    let pidfd = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let openat2 = rustix::fs::openat2(
        rustix::fs::CWD,
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::NO_SYMLINKS,
    );
    vec![
        result("pidfd_open", pidfd.map(drop).map_err(|e| e.to_string())),
        result("openat2", openat2.map(drop).map_err(|e| e.to_string())),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("6.18.0-cloud-amd64").level, Level::Ok);
        assert_eq!(version("5.14.1").level, Level::Ok);
        assert_eq!(version("5.10.0-21-amd64").level, Level::Fail);
        assert_eq!(version("").level, Level::Fail);
    }

    #[test]
    fn an_old_landlock_is_told_with_what_it_lacks() {
        assert_eq!(landlock_of(7).level, Level::Ok);
        let old = landlock_of(3);
        assert_eq!(old.level, Level::Warn);
        assert!(
            old.found.contains("TCP ports, abstract") && !old.found.contains("truncating"),
            "{}",
            old.found
        );
    }

    #[test]
    fn settings_that_forbid_are_told_with_their_fix() {
        let none = sysctls(&|_| None);
        assert!(none.is_empty());
        let all = sysctls(&|name| Some(u64::from(name.contains("apparmor"))));
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|c| c.fix.as_ref().is_some_and(|f| f.starts_with("sudo sysctl -w "))));
    }

    #[test]
    fn what_failed_is_told() {
        let mut found = Findings::new();
        found.insert("userns".into(), Err("unshare: Operation not permitted".into()));
        let checks = tried(&found);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].level, Level::Fail);
    }
}
