//! The second disk: our programs, the test targets, the images that they run, and what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use cordium_tests::{images, paths, process::sh, registry::Registry};

use super::system::{definition, disk_of, work};

/// What goes in beside the programs.
pub struct Payload<'a> {
    pub programs: &'a Path,
    /// Names of test targets and their executables.
    pub targets: &'a [(String, PathBuf)],
    /// Targets and their arguments, in the order in which they run.
    pub runs: &'a [(String, Vec<String>)],
    pub threads: usize,
}

/// Makes the disk, and returns where it is.
pub fn make(payload: &Payload<'_>) -> Result<PathBuf> {
    let dir = work().join("payload");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    let sub = |name: &str| -> Result<PathBuf> {
        let path = dir.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(path)
    };
    let (bin, tests, tools) = (sub("bin/debug")?, sub("tests")?, sub("tools")?);
    for name in paths::PROGRAMS {
        strip(&payload.programs.join(name), &bin.join(name))?;
    }
    for (name, executable) in payload.targets {
        strip(executable, &tests.join(name))?;
    }
    // The same one on both sides: images are named by what this one can do.
    copy(Path::new("/bin/busybox"), &tools.join("busybox"))?;
    link(&registry()?, &sub("target")?.join("registry"))?;
    let cache = sub("target/images")?;
    for image in images::all()? {
        let name = image.layout.dir().file_name().context("an image's directory has no name")?.to_owned();
        link(image.layout.dir(), &cache.join(name))?;
    }
    sh("cp", &["--recursive", &text(&paths::repository().join("images")), &text(&sub("repository")?)])?;
    for name in ["guest.sh", "modules"] {
        copy(&definition().join(name), &dir.join(name))?;
    }
    fs::write(dir.join("settings"), settings(&paths::repository(), payload.threads))
        .context("writing the machine's settings")?;
    fs::write(dir.join("runs"), lines(payload.runs)).context("writing what the machine runs")?;
    let disk = work().join("payload.ext4");
    disk_of(&dir, &disk)?;
    fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    Ok(disk)
}

/// Assignments for the guest's shell.
fn settings(repository: &Path, threads: usize) -> String {
    format!("REPOSITORY='{}'\nTHREADS={threads}\n", text(repository).replace('\'', "'\\''"))
}

/// One run a line: a target and its arguments, which are plain words.
fn lines(runs: &[(String, Vec<String>)]) -> String {
    runs.iter().map(|(target, args)| format!("{target} {}\n", args.join(" "))).collect()
}

/// The storage of a registry that has our images and nothing else, filled while there is a CPU of our own to do it.
fn registry() -> Result<PathBuf> {
    let images = images::all()?;
    let mut keys: Vec<&str> = images.iter().map(|image| image.key.as_str()).collect();
    keys.sort_unstable();
    let (storage, stamp) = (work().join("registry"), work().join("registry.keys"));
    if fs::read_to_string(&stamp).is_ok_and(|there| there == keys.join(" ")) {
        return Ok(storage);
    }
    if storage.exists() {
        fs::remove_dir_all(&storage).with_context(|| format!("removing {}", storage.display()))?;
    }
    let scratch = tempfile::tempdir().context("creating a directory for a registry")?;
    Registry::start(&storage, scratch.path())?.push_all(&storage, &images)?;
    fs::write(&stamp, keys.join(" ")).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(storage)
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    sh("strip", &["-o", &text(to), &text(from)]).map(drop)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// The same files under another name, which costs nothing.
fn link(from: &Path, to: &Path) -> Result<()> {
    sh("cp", &["--recursive", "--link", &text(from), &text(to)]).map(drop)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_settings_as_they_are() {
        let script = settings(Path::new("/it's $HOME"), 2);
        let script = format!("{script}printf '%s|%s' \"$REPOSITORY\" \"$THREADS\"");
        assert_eq!(sh("sh", &["-c", &script]).unwrap(), "/it's $HOME|2");
    }

    #[test]
    fn a_run_is_a_line() {
        let runs =
            [("e2e_a".to_owned(), vec![]), ("e2e_b".to_owned(), vec!["--skip".to_owned(), "x".to_owned()])];
        assert_eq!(lines(&runs), "e2e_a \ne2e_b --skip x\n");
    }
}
