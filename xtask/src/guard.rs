//! One demo or test run at a time on a machine, and a clean start after one that was killed.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
};

use anyhow::{Context, Result, bail};
use cordium_tests::{delegation, paths, process, user::User};
use nix::fcntl::{Flock, FlockArg};

/// Held for the whole run.
pub struct Guard(#[allow(dead_code)] Flock<File>);

/// Takes the lock, then removes what a killed run left: its processes, cgroups and directories.
pub fn take(user: &User) -> Result<Guard> {
    let scratch = paths::scratch();
    fs::create_dir_all(&scratch).with_context(|| format!("creating {}", scratch.display()))?;
    fs::set_permissions(&scratch, fs::Permissions::from_mode(0o755))?;
    let path = paths::target().join("xtask.lock");
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
        bail!("another `cargo xtask demo`, `test` or `bench` is running: wait for it");
    };
    clean(user);
    Ok(Guard(lock))
}

fn clean(user: &User) {
    for line in process::end_by_marker(&paths::scratch()) {
        println!("ended a process of an earlier run: {line}");
    }
    for subtree in delegation::subtrees(user.uid) {
        remove_cgroups(&subtree);
    }
    let Ok(entries) = fs::read_dir(paths::scratch()) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name() != "bin") {
        if let Err(error) = cordium_tests::fixture::remove_dir(&entry.path()) {
            eprintln!("{error:#}");
        }
    }
}

/// Empty workspace cgroups; one that still has processes cannot be removed, and the leak check will tell.
fn remove_cgroups(dir: &std::path::Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for entry in dirs.filter(|entry| entry.file_name() != "supervisor") {
        remove_cgroups(&entry.path());
        let _ = fs::remove_dir(entry.path());
    }
}
