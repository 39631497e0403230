//! What is in a file of a view: shared extents, a redirect or a copy; and its attributes.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, SeekFrom, Stat, XattrFlags};
use rustix::io::Errno;

use super::idmap::RANGE;
use super::protocol::Fault;
use super::xattr;
use crate::config::ViewMethod;

/// An attribute as long as a redirect takes a block of its own on many a file system: a file of one block is no dearer.
const SMALL: u64 = 4096;
/// Longer paths are copied: an attribute has to fit into a block together with the others.
const LONGEST_REDIRECT: usize = 1024;
/// Up to here reading and writing is quicker than setting up anything else.
const CHUNK: usize = 128 << 10;
/// The most that the kernel gives for one attribute, and for the names of all.
const XATTR: usize = 64 << 10;

/// Where the content of a view comes from.
pub(super) struct Origin {
    pub method: ViewMethod,
    /// The layer's directory in the overlay's data layer.
    pub hex: Vec<u8>,
}

impl Origin {
    /// What the redirect of a file says, or none if it is to be copied. The overlay reads the layer's file with the
    /// rights of who mounts it, to whom home's ids are strangers: everybody must be able to get there.
    pub(super) fn redirect(&self, path: &[u8], stat: &Stat, searchable: bool) -> Option<Vec<u8>> {
        #[allow(clippy::unnecessary_cast)] // The types differ from machine to machine.
        let taken = (stat.st_blocks as u64).saturating_mul(512);
        if self.method != ViewMethod::Redirect || !searchable || stat.st_mode & 0o004 == 0 || taken <= SMALL {
            return None;
        }
        let to = [b"/", self.hex.as_slice(), b"/fs/", path].concat();
        (to.len() <= LONGEST_REDIRECT).then_some(to)
    }
}

/// Of one writer.
pub(super) struct Buffers {
    data: Vec<u8>,
    names: Vec<u8>,
    value: Vec<u8>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { data: vec![0; CHUNK], names: vec![0; XATTR], value: vec![0; XATTR] }
    }
}

/// A file without data, of the size of the other.
pub(super) fn redirect(output: BorrowedFd<'_>, to: &[u8], stat: &Stat, path: &[u8]) -> Result<(), Fault> {
    fs::ftruncate(output, stat.st_size.unsigned_abs()).map_err(|e| Fault::io("extending", path, e))?;
    for (name, value) in [("user.overlay.metacopy", &b""[..]), ("user.overlay.redirect", to)] {
        fs::fsetxattr(output, name, value, XattrFlags::empty())
            .map_err(|e| Fault::io("redirecting", path, e))?;
    }
    Ok(())
}

/// The data itself, shared where that was asked for and can be.
pub(super) fn data(
    method: ViewMethod,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    stat: &Stat,
    buffers: &mut Buffers,
    path: &[u8],
) -> Result<(), Fault> {
    let size = stat.st_size.unsigned_abs();
    if size == 0 {
        return Ok(());
    }
    if method == ViewMethod::Reflink {
        match fs::ioctl_ficlone(output, input) {
            Ok(()) => return Ok(()),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                return Err(Fault::io("sharing", path, error));
            }
            // Not this file, for whatever reason.
            Err(_) => {}
        }
    }
    #[allow(clippy::unnecessary_cast)]
    let sparse = (stat.st_blocks as u64).saturating_mul(512) < size;
    if !sparse {
        return segment(input, output, 0, size, buffers, path);
    }
    let mut at = 0;
    while at < size {
        let start = match fs::seek(input, SeekFrom::Data(at)) {
            Ok(start) => start,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(Fault::io("reading", path, error)),
        };
        let end = fs::seek(input, SeekFrom::Hole(start)).map_err(|e| Fault::io("reading", path, e))?;
        segment(input, output, start, end.min(size), buffers, path)?;
        at = end;
    }
    fs::ftruncate(output, size).map_err(|e| Fault::io("extending", path, e))
}

fn segment(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    mut at: u64,
    end: u64,
    buffers: &mut Buffers,
    path: &[u8],
) -> Result<(), Fault> {
    while at < end && end - at > CHUNK as u64 {
        let (mut from, mut to) = (at, at);
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match fs::copy_file_range(input, Some(&mut from), output, Some(&mut to), want) {
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => break,
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(Fault::io("copying", path, error)),
        }
    }
    while at < end {
        let want = buffers.data.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        let got = match rustix::io::pread(input, &mut buffers.data[..want], at) {
            Ok(0) => return Err(Fault::entry(path, "its content ends early")),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(Fault::io("reading", path, error)),
        };
        let mut rest = &buffers.data[..got];
        while !rest.is_empty() {
            match rustix::io::pwrite(output, rest, at) {
                Ok(written) => {
                    rest = &rest[written..];
                    at += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(Fault::io("writing", path, error)),
            }
        }
    }
    Ok(())
}

const OPAQUE: &str = "user.overlay.opaque";

/// Whether a directory of a layer hides what the layers below have in its place.
pub(super) fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match fs::fgetxattr(dir, OPAQUE, &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// After the owner, which clears capabilities. The mark of an opaque directory only with `opaque`.
pub(super) fn attributes(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    opaque: bool,
    buffers: &mut Buffers,
    path: &[u8],
) -> Result<(), Fault> {
    let length = match fs::flistxattr(input, &mut buffers.names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(Fault::io("reading the attributes of", path, error)),
    };
    for name in buffers.names[..length].split(|b| *b == 0).filter(|name| xattr::in_view(name)) {
        if !opaque && name == OPAQUE.as_bytes() {
            continue;
        }
        let length = fs::fgetxattr(input, name, &mut buffers.value[..])
            .map_err(|e| Fault::io("reading an attribute of", path, e))?;
        let mut value = &buffers.value[..length];
        let shifted;
        if name == xattr::CAPABILITY {
            shifted = xattr::shift_capability(value, RANGE, RANGE)
                .ok_or_else(|| Fault::entry(path, "its capabilities are not of the range of layers"))?;
            value = &shifted;
        }
        fs::fsetxattr(output, name, value, XattrFlags::empty())
            .map_err(|e| Fault::io("setting an attribute of", path, e))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn origin(method: ViewMethod) -> Origin {
        Origin { method, hex: b"ab12".to_vec() }
    }

    fn stat(mode: u32, blocks: u64) -> Stat {
        let mut stat = fs::stat("/").unwrap();
        (stat.st_mode, stat.st_blocks) = (0o100_000 | mode, blocks.try_into().unwrap());
        stat
    }

    #[test]
    fn what_everybody_can_read_is_redirected() {
        let redirect =
            |mode, blocks, open| origin(ViewMethod::Redirect).redirect(b"a/b", &stat(mode, blocks), open);
        assert_eq!(redirect(0o644, 16, true).unwrap(), b"/ab12/fs/a/b");
        assert!(redirect(0o4755, 2048, true).is_some());
        for (mode, blocks, open, why) in [
            (0o640, 16, true, "not for everybody"),
            (0o711, 16, true, "to run, not to read"),
            (0o644, 16, false, "below a closed directory"),
            (0o644, 8, true, "one block"),
            (0o644, 0, true, "empty, or nothing but a hole"),
        ] {
            assert!(redirect(mode, blocks, open).is_none(), "{why}");
        }
    }

    #[test]
    fn only_one_method_redirects_and_paths_are_bounded() {
        for method in [ViewMethod::Copy, ViewMethod::Reflink] {
            assert!(origin(method).redirect(b"a", &stat(0o644, 16), true).is_none());
        }
        let fits = [b'x'; LONGEST_REDIRECT - 9];
        let redirect = |path: &[u8]| origin(ViewMethod::Redirect).redirect(path, &stat(0o644, 16), true);
        assert_eq!(redirect(&fits).unwrap().len(), LONGEST_REDIRECT);
        assert!(redirect(&[b'x'; LONGEST_REDIRECT - 8]).is_none());
    }

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let dir = tempfile::tempdir().unwrap();
        let from = std::fs::File::create_new(dir.path().join("from")).unwrap();
        from.write_all_at(&vec![1; 200 << 10], 1 << 20).unwrap();
        from.write_all_at(b"end", 5 << 20).unwrap();
        from.set_len(9 << 20).unwrap();
        let from = std::fs::File::open(dir.path().join("from")).unwrap();
        let to = std::fs::File::create_new(dir.path().join("to")).unwrap();
        let stat = fs::fstat(&from).unwrap();
        use std::os::fd::AsFd;
        data(ViewMethod::Copy, from.as_fd(), to.as_fd(), &stat, &mut Buffers::default(), b"to").unwrap();
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("from") == read("to"));
        let (from, to) = (from.metadata().unwrap().blocks(), to.metadata().unwrap().blocks());
        assert!(to <= from + 16, "{to} blocks of {from}");
    }
}
