//! The store is for an ordinary user with subordinate ids. Where the tests run as root, each runs itself
//! again as the user `cordium-test`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cordium_image::IdMap;
use nix::unistd::{User, getuid};

const USER: &str = "cordium-test";

/// Runs a test's body on a runtime, as an ordinary user.
pub fn as_user<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    as_user_with(name, &[], body);
}

/// The same, with further variables in the environment of the run as that user.
pub fn as_user_with<F: Future<Output = ()>>(name: &str, env: &[(&str, &Path)], body: impl FnOnce() -> F) {
    if getuid().is_root() {
        return again(name, env);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(300), body()).await.expect("test timed out")
    });
}

fn again(name: &str, env: &[(&str, &Path)]) {
    prepare();
    let user = User::from_name(USER).unwrap().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env_clear()
        .env("HOME", &user.dir)
        .envs(env.iter().copied())
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "as {USER}:\n{text}");
    assert!(text.contains("1 passed"), "the test did not run as {USER}:\n{text}");
}

fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if User::from_name(USER).unwrap().is_none() {
            run("useradd", &["--create-home", "--shell", "/bin/bash", USER]);
        }
        for (file, flag) in [("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")] {
            if find(file, USER).is_none() {
                run("usermod", &[flag, "200000-265535", USER]);
            }
            if ranges(file, USER).len() < 3 {
                run("usermod", &[flag, "1000000-5194303", USER]);
            }
        }
    });
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn find(file: &str, name: &str) -> Option<(u32, u32)> {
    std::fs::read_to_string(file).ok()?.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (range.1 >= 65_536).then_some(range)
    })
}

/// Starts of all whole ranges of 65,536 ids, in the order of the file.
fn ranges(file: &str, name: &str) -> Vec<u32> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some((fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?))
    });
    lines.flat_map(|(start, count)| (0..count / 65_536).map(move |n| start + n * 65_536)).collect()
}

/// Home, and further ranges.
pub fn all_ranges() -> (IdMap, Vec<IdMap>) {
    let name = User::from_uid(getuid()).unwrap().unwrap().name;
    let pairs = ranges("/etc/subuid", &name).into_iter().zip(ranges("/etc/subgid", &name));
    let mut all = pairs.map(|(uid_start, gid_start)| IdMap {
        uid_start,
        uid_count: 65_536,
        gid_start,
        gid_count: 65_536,
    });
    let home = all.next().expect("subordinate ids");
    (home, all.take(8).collect())
}

pub fn ids() -> IdMap {
    let name = User::from_uid(getuid()).unwrap().unwrap().name;
    let (uid_start, uid_count) = find("/etc/subuid", &name).expect("subordinate user ids");
    let (gid_start, gid_count) = find("/etc/subgid", &name).expect("subordinate group ids");
    IdMap { uid_start, uid_count, gid_start, gid_count }
}
