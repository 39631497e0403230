//! A small file system, for tests of a full disk. Only root can mount one: elsewhere the test says that it
//! did not run.

use std::path::{Path, PathBuf};
use std::process::Command;

pub const VARIABLE: &str = "CORDIUM_TEST_SMALL_DISK";

pub struct Disk {
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
}

impl Disk {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.dir.is_some() {
            let _ = Command::new("umount").arg(&self.path).status();
        }
    }
}

/// Mounts it, or finds the one that was mounted for this process.
pub fn small(test: &str, megabytes: u32) -> Option<Disk> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Some(Disk { dir: None, path: path.into() });
    }
    if !nix::unistd::getuid().is_root() {
        eprintln!("NOT RUN: {test} needs root, to mount a small file system");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let options = format!("size={megabytes}m,mode=1777");
    let status =
        Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir.path()).status();
    assert!(status.unwrap().success());
    let path = dir.path().to_owned();
    Some(Disk { dir: Some(dir), path })
}

pub fn fixture_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::var_os(VARIABLE).unwrap()).unwrap()
}
