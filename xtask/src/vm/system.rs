//! The virtual machine's root disk, kernel and modules: made from Debian packages once, cached by what they are made of.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cordium_tests::{images, paths};
use sha2::{Digest, Sha256};

use super::{cpio::Archive, modules::load_order};
use crate::step::{self, Step};

/// Change it when the way the machine is made changes.
const RECIPE: &str = "1";

/// Without these the kernel sees no disk.
const FIRST_MODULES: [&str; 2] = ["virtio_pci", "virtio_blk"];

pub struct System {
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    pub root: PathBuf,
}

/// Where the machine's definition is.
pub fn definition() -> PathBuf {
    paths::repository().join("images/vm")
}

/// Where everything that is made for the machine lies.
pub fn work() -> PathBuf {
    paths::target().join("vm")
}

/// Makes what is missing.
pub async fn system() -> Result<System> {
    let read = |name: &str| {
        let path = definition().join(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    let (packages, excludes, pack) = (read("packages")?, read("excludes")?, read("pack.sh")?);
    let dir = work().join(key(&[&packages, &excludes, &pack]));
    if !dir.join("root.ext4").exists() {
        fs::create_dir_all(work()).with_context(|| format!("creating {}", work().display()))?;
        let partial = tempfile::Builder::new().prefix("partial-").tempdir_in(work())?;
        build(partial.path(), &packages, &excludes).await?;
        fs::rename(partial.keep(), &dir).with_context(|| format!("publishing {}", dir.display()))?;
    }
    let initramfs = work().join("initramfs.cpio");
    fs::write(&initramfs, first_root(&dir, read("initramfs.sh")?.as_bytes())?)
        .with_context(|| format!("writing {}", initramfs.display()))?;
    Ok(System { kernel: dir.join("vmlinuz"), initramfs, root: dir.join("root.ext4") })
}

fn key(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in [RECIPE].iter().chain(parts) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("system-{}", hex::encode(&hash.finalize()[..8]))
}

async fn build(dir: &Path, packages: &str, excludes: &str) -> Result<()> {
    let archive = dir.join("root.tar");
    let mut bootstrap = tokio::process::Command::new("mmdebstrap");
    bootstrap
        // The kernel's package would make an initramfs of its own.
        .env("INITRD", "No")
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", lines(packages).collect::<Vec<_>>().join(",")))
        .args(lines(excludes).map(|path| format!("--dpkgopt=path-exclude={path}")))
        .arg("--customize-hook=chroot \"$1\" useradd --create-home --shell /bin/bash cordium-test")
        .arg("--customize-hook=rm -rf \"$1\"/var/cache/apt/* \"$1\"/var/lib/apt/lists/* \"$1\"/var/log/*")
        .arg(images::SUITE)
        .arg(&archive);
    if let Some(mirror) = images::mirror() {
        bootstrap.arg(format!("deb {mirror} {} main", images::SUITE));
    }
    let minutes = |count: u64| Duration::from_secs(count * 60);
    let fetch = Step { name: "vm: root file system and kernel", limit: minutes(15), show: false };
    ensure!(step::run(&fetch, &mut bootstrap).await?.success, "mmdebstrap failed");
    let mut pack = as_root(&definition().join("pack.sh"));
    pack.arg(&archive).arg(dir);
    let make = Step { name: "vm: root disk", limit: minutes(5), show: false };
    ensure!(step::run(&make, &mut pack).await?.success, "the root disk could not be made");
    fs::remove_file(&archive).with_context(|| format!("removing {}", archive.display()))
}

/// A command that is root, of a user namespace if need be, so that files get their owners.
fn as_root(program: &Path) -> tokio::process::Command {
    if nix::unistd::geteuid().is_root() {
        return tokio::process::Command::new(program);
    }
    let mut command = tokio::process::Command::new("unshare");
    command.args(["--map-root-user", "--map-auto"]).arg(program);
    command
}

/// A shell, the modules that come before the disk, and the script that loads them.
fn first_root(system: &Path, script: &[u8]) -> Result<Vec<u8>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "modules", "proc", "root"] {
        archive.directory(dir);
    }
    archive.file("bin/busybox", 0o755, &read(Path::new("/bin/busybox"))?);
    archive.file("init", 0o755, script);
    let dep = fs::read_to_string(system.join("modules.dep")).context("reading modules.dep")?;
    for (number, path) in load_order(&dep, &FIRST_MODULES)?.iter().enumerate() {
        let name = Path::new(path).file_name().context("modules.dep names a directory")?.to_string_lossy();
        archive.file(
            &format!("modules/{number:02}-{name}"),
            0o644,
            &read(&system.join("modules").join(path))?,
        );
    }
    Ok(archive.finish())
}

/// Makes a disk that holds a directory's files.
pub fn disk_of(dir: &Path, disk: &Path) -> Result<()> {
    let used = cordium_tests::process::sh("du", &["--summarize", "--block-size=1M", &dir.to_string_lossy()])?;
    let used: u64 =
        used.split_whitespace().next().unwrap_or_default().parse().context("reading du's answer")?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-E", "root_owner=0:0", "-d"])
        .arg(dir)
        .arg(disk)
        // A quarter and a little for inodes, directories and what is written while it runs.
        .arg(format!("{}M", used + used / 4 + 256))
        .stdin(Stdio::null())
        .output()
        .context("running mkfs.ext4")?;
    ensure!(output.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_any_part_is_another_system() {
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
        assert_ne!(key(&["a", "b"]), key(&["ab", ""]));
    }
}
