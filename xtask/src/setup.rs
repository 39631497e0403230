//! `cargo xtask setup`: what demo and tests need of the machine. Done again, it only looks.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use cordium_tests::{
    delegation, paths, process, subordinate,
    user::{TEST_USER, User},
};
use nix::sys::statvfs::statvfs;

use crate::{
    cargo,
    step::{self, Step},
};

/// Debian packages, each with the reason why it is here.
const PACKAGES: [(&str, &str); 24] = [
    ("uidmap", "maps subordinate ids"),
    ("nftables", "the gateway's rules"),
    ("iproute2", "the gateway's links"),
    ("git", "the git server and its repositories"),
    ("mmdebstrap", "the base image"),
    ("debian-archive-keyring", "the base image, on Ubuntu"),
    ("docker-registry", "the image registry on loopback"),
    ("skopeo", "pushes images; peer of the bench"),
    ("apache2-utils", "a registry with a password"),
    ("busybox-static", "small images"),
    ("ca-certificates", "TLS to registries"),
    ("util-linux", "setpriv"),
    ("procps", "ps in the demo"),
    ("libcap2-bin", "file capabilities in the pod"),
    ("umoci", "peer of the bench"),
    ("crun", "the pod; peer of the bench"),
    ("runc", "peer of the bench"),
    ("podman", "peer of the bench"),
    ("netavark", "peer of the bench: the network stack that the base image has"),
    ("iptables", "peer of the bench: netavark calls it"),
    ("gcc", "links the programs"),
    ("qemu-system-x86", "the virtual machine with pure cgroup v2"),
    ("e2fsprogs", "the virtual machine's disks"),
    ("postgresql", "a server that workspaces use without its password, and its client"),
];

/// What `cordium setup` gives where there is room; `useradd` of Debian gives one.
const RANGES_WANTED: u32 = 64;
/// Tests look at two workspaces side by side.
const RANGES_NEEDED: u32 = 2;
/// GiB of disk space, of which the builds take most.
const ROOM_WANTED: u64 = 10;

pub async fn run() -> Result<()> {
    ensure().await?;
    println!("this machine is set up: `cargo xtask demo`, `cargo xtask test`");
    Ok(())
}

/// Sets up what is missing, and returns the user that supervisors run as.
pub async fn ensure() -> Result<User> {
    room()?;
    if nix::unistd::geteuid().is_root() { as_root().await } else { as_user().await }
}

/// A full disk fails in a hundred places, none of which says so as clearly.
fn room() -> Result<()> {
    let target = paths::target();
    let place = target.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let fs = statvfs(place).with_context(|| format!("looking at the room in {}", place.display()))?;
    let gib = fs.blocks_available().saturating_mul(fs.fragment_size()) >> 30;
    if gib < ROOM_WANTED {
        println!(
            "{gib} GiB free in {}: the builds, images and tests of a first run take up to {ROOM_WANTED} GiB",
            place.display()
        );
    }
    Ok(())
}

async fn as_root() -> Result<User> {
    let missing = missing_packages();
    if !missing.is_empty() {
        let minutes = |count: u64| Duration::from_secs(count * 60);
        let apt = |args: &[&str]| {
            let mut command = tokio::process::Command::new("apt-get");
            command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
            command
        };
        let update = Step { name: "apt-get update", limit: minutes(5), show: false };
        step::run(&update, &mut apt(&["-q", "update"])).await?;
        println!("missing packages: {}", missing.join(" "));
        no_cluster()?;
        let mut args =
            vec!["-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "install"];
        args.extend(&missing);
        let outcome =
            step::run(&Step { name: "apt-get install", limit: minutes(20), show: false }, &mut apt(&args))
                .await?;
        ensure!(outcome.success, "the packages could not be installed: {}", missing.join(" "));
    }
    if User::find(|user| user.name == TEST_USER)?.is_none() {
        process::sh("useradd", &["--create-home", "--shell", "/bin/bash", TEST_USER])?;
        println!("made the user {TEST_USER}");
    }
    let user = User::for_tests()?;
    if !is_delegated(&user) || subordinate::ranges(&user) < RANGES_WANTED {
        let programs = cargo::build_programs(cargo::Profile::Dev).await?;
        cordium_setup(&programs, &user)?;
        ensure!(
            is_delegated(&user),
            "`cordium setup --user {}` made no cgroup subtree, or has too few subordinate ids",
            user.name
        );
    }
    Ok(user)
}

/// Debian's package of PostgreSQL makes a cluster of databases and starts it, unless it is told not to before it comes.
fn no_cluster() -> Result<()> {
    let path = Path::new("/etc/postgresql-common/createcluster.conf");
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    std::fs::write(path, "create_main_cluster = false\n")
        .with_context(|| format!("writing {}", path.display()))
}

fn cordium_setup(programs: &Path, user: &User) -> Result<()> {
    print!("{}", cordium_tests::cli::own(&programs.join("cordium"), &["setup", "--user", &user.name])?);
    Ok(())
}

/// Without root we can only say what is to be done.
async fn as_user() -> Result<User> {
    let user = User::for_tests()?;
    let mut commands = Vec::new();
    let missing = missing_packages();
    if !missing.is_empty() {
        commands.push(format!("apt-get install --no-install-recommends {}", missing.join(" ")));
    }
    if !is_delegated(&user) {
        let programs = cargo::build_programs(cargo::Profile::Dev).await?;
        commands.push(format!("{} setup --user {}", programs.join("cordium").display(), user.name));
    }
    if commands.is_empty() {
        return Ok(user);
    }
    bail!(
        "this needs root, once:\n\n    sudo {}\n\nthen run the same command again",
        commands.join("\n    sudo ")
    );
}

/// Subordinate ids and a cgroup subtree are there, and two workspaces need not share a range.
fn is_delegated(user: &User) -> bool {
    subordinate::ranges(user) >= RANGES_NEEDED && delegation::is_complete(user.uid)
}

fn missing_packages() -> Vec<&'static str> {
    let installed = |name: &str| {
        let query = Command::new("dpkg-query")
            .args(["--show", "--showformat=${db:Status-Status}", name])
            .stderr(Stdio::null())
            .output();
        query.is_ok_and(|output| output.stdout == b"installed")
    };
    PACKAGES.iter().map(|(name, _)| *name).filter(|name| !installed(name)).collect()
}
