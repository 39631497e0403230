//! Where things are: the repository, the built programs, the caches.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The programs that make up the product.
pub const PROGRAMS: [&str; 4] = ["cordium", "cordium-supervisor", "cordium-agent", "cordium-scheduler"];

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).to_owned()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Where cargo put the programs: `CORDIUM_BIN_DIR`, or beside the executable that asks (which lies in `deps/` when
/// it is a test).
pub fn built_programs() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CORDIUM_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = env::current_exe().context("finding this executable")?;
    let dir = exe.parent().context("this executable has no directory")?;
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() })
}

/// Everything that a run makes outside `target/` lies below this directory, one subdirectory for each fixture.
pub fn scratch() -> PathBuf {
    env::var_os("CORDIUM_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp/cordium-e2e"), PathBuf::from)
}

/// Copies the programs to a place that the unprivileged user can reach, for a clone under `/root` is closed to it.
/// What is already there and as new as its source stays.
pub fn staged_programs() -> Result<PathBuf> {
    staged_from(&built_programs()?)
}

/// As `staged_programs`, from a directory of one's own choice.
pub fn staged_from(from: &Path) -> Result<PathBuf> {
    let profile = from.file_name().context("programs' directory has no name")?;
    let to = scratch().join("bin").join(profile);
    fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
    for dir in [scratch(), scratch().join("bin"), to.clone()] {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("opening {} to other users", dir.display()))?;
    }
    for name in PROGRAMS {
        stage(&from.join(name), &to.join(name))?;
    }
    Ok(to)
}

fn stage(from: &Path, to: &Path) -> Result<()> {
    let source = fs::metadata(from)
        .with_context(|| format!("{} is not built: `cargo xtask test` builds it", from.display()))?;
    if let Ok(there) = fs::metadata(to)
        && there.len() == source.len()
        && there.modified()? >= source.modified()?
    {
        return Ok(());
    }
    let partial = to.with_extension(format!("{}.partial", std::process::id()));
    fs::copy(from, &partial)
        .with_context(|| format!("copying {} to {}", from.display(), partial.display()))?;
    fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))?;
    fs::rename(&partial, to).with_context(|| format!("renaming to {}", to.display()))
}
