//! `/run` is empty at every start, as on any machine that boots: engines and daemons take what they find there for the
//! state of something that still runs. What the image ships in it is copied; what is mounted in it stays.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use crate::tree;

const RUN: &str = "/run";

#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    #[error("/run is not a directory of the image's")]
    NotADirectory,
    #[error("reading the mounts in /run: {0}")]
    Mounts(io::Error),
    #[error("keeping {}: {source}", path.display())]
    Keep { path: PathBuf, source: io::Error },
    #[error("mounting /run: {0}")]
    Mount(io::Error),
    #[error("copying the image's /run: {0}")]
    Copy(io::Error),
}

/// Mounts it, with everything that is mounted in it now.
pub fn mount_fresh() -> Result<(), RunDirError> {
    match fs::symlink_metadata(RUN) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(RUN).map_err(RunDirError::Mount)?
        }
        Ok(found) if found.is_dir() => {}
        _ => return Err(RunDirError::NotADirectory),
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(RunDirError::Mounts)?;
    let kept = outermost(&mounts)
        .into_iter()
        .map(|path| Ok((open_mount(&path).map_err(keep(&path))?, path)))
        .collect::<Result<Vec<_>, RunDirError>>()?;
    let image = open_dir(Path::new(RUN)).map_err(RunDirError::Mount)?;
    mount("tmpfs", RUN, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755,size=20%,nr_inodes=256k")
        .map_err(|e| RunDirError::Mount(e.into()))?;
    let image = PathBuf::from(format!("/proc/self/fd/{}/.", image.as_raw_fd()));
    tree::copy_image(&image, Path::new(RUN)).map_err(RunDirError::Copy)?;
    for (tree, path) in kept {
        reattach(&tree, &path).map_err(keep(&path))?;
    }
    Ok(())
}

fn keep(path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Keep { path, source }
}

/// The mount itself, to be moved: of a copy the one that PID 1 is executed from would stay behind, and the other could be
/// unmounted and replaced.
fn open_mount(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

fn reattach(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(tree)?.st_mode).is_dir();
    if is_dir {
        fs::create_dir_all(path)?;
    } else {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::File::create(path)?;
    }
    Ok(move_mount(tree, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// The mount points below `/run` that are not below another one.
fn outermost(mountinfo: &str) -> Vec<PathBuf> {
    let mut points: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(RUN) && point != Path::new(RUN))
        .collect();
    points.sort();
    points.dedup();
    let mut outer: Vec<PathBuf> = Vec::new();
    for point in points {
        if !outer.iter().any(|known| point.starts_with(known)) {
            outer.push(point);
        }
    }
    outer
}

/// The kernel writes four characters as `\` and three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, character)| text.replace(code, character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_within_kept_ones_come_along() {
        let mountinfo = "\
1 0 0:1 / / rw - overlay overlay rw
2 1 0:2 / /run/cordium rw - tmpfs tmpfs rw
3 2 0:3 /x /run/cordium/bin/cordium-agent ro - ext4 d ro
4 1 0:4 / /run/my\\040data rw - ext4 d rw
5 1 0:5 / /runner rw - ext4 d rw";
        let outer = outermost(mountinfo);
        assert_eq!(outer, [PathBuf::from("/run/cordium"), PathBuf::from("/run/my data")]);
    }
}
