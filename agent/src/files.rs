//! Small files of the image: bounded reads, atomic replacement that never follows a link.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, fchmod, fchown, openat, renameat, unlinkat};

/// Larger than any account file that a person keeps.
const MAX_SMALL_FILE: u64 = 4 << 20;

/// Reads a small file; a missing one is `None`. A named pipe in its place is not waited for.
pub fn read_small(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_SMALL_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SMALL_FILE {
        return Err(io::Error::other("is larger than 4 MiB"));
    }
    Ok(Some(bytes))
}

/// Replaces `path` in one step, whatever it was (a link is replaced, not followed). An existing file keeps
/// its owner and mode; a new one gets `mode` and root.
pub fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().ok_or_else(|| io::Error::other("has no file name"))?;
    std::fs::create_dir_all(parent)?;
    let directory = openat(CWD, parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let kept = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file);
    let temporary = format!(".{}.cordium-new", name.to_string_lossy());
    let _ = unlinkat(&directory, &temporary, AtFlags::empty());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&directory, &temporary, flags, Mode::from_raw_mode(0o600))?);
    let written = file.write_all(content).and_then(|()| attributes(&file, kept.as_ref(), mode));
    let renamed = written.and_then(|()| Ok(renameat(&directory, &temporary, &directory, name)?));
    if renamed.is_err() {
        let _ = unlinkat(&directory, &temporary, AtFlags::empty());
    }
    match renamed {
        // A file that is itself a mount point cannot be replaced, only rewritten.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::fs::write(path, content),
        other => other,
    }
}

fn attributes(file: &File, kept: Option<&std::fs::Metadata>, mode: u32) -> io::Result<()> {
    let (uid, gid, mode) = kept.map_or((0, 0, mode), |kept| (kept.uid(), kept.gid(), kept.mode() & 0o7777));
    own(file, uid, gid)?;
    Ok(fchmod(file, Mode::from_raw_mode(mode))?)
}

pub fn own(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    Ok(fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_link_is_replaced_and_its_target_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("resolv.conf"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace(&link, b"new", 0o644).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read(&link).unwrap(), b"new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn a_pipe_or_an_endless_device_in_the_place_of_a_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("passwd");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let begun = std::time::Instant::now();
        let read = std::thread::spawn(move || read_small(&pipe).is_err());
        while !read.is_finished() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "it waits for a writer");
            std::thread::yield_now();
        }
        assert!(read.join().unwrap());
        assert!(read_small(Path::new("/dev/zero")).is_err());
    }

    #[test]
    fn an_existing_mode_is_kept_and_directories_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/shadow");
        replace(&path, b"1", 0o640).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        replace(&path, b"2", 0o640).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(read_small(&path).unwrap().unwrap(), b"2");
        assert_eq!(read_small(&dir.path().join("none")).unwrap(), None);
    }
}
