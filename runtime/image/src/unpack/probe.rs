//! What file system and kernel can do for views, found by doing it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, UnmountFlags};

use super::protocol::Can;

const CONTENT: &[u8] = &[b'c'; 10_000];

/// Runs in a mount namespace of its own, in an empty directory of the store that is removed after.
pub(super) fn run(dir: &Path) -> Can {
    let mut can = Can::default();
    let mut attempt = |what: &str, result: io::Result<()>| match result {
        Ok(()) => true,
        Err(error) => {
            can.reasons.push(format!("{what}: {error}"));
            false
        }
    };
    let reflink = attempt("reflink", reflink(dir));
    let redirect = attempt("redirect", redirect(dir));
    Can { reflink, redirect, ..can }
}

fn reflink(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("from"), CONTENT)?;
    let to = File::create_new(dir.join("to"))?;
    rustix::fs::ioctl_ficlone(&to, File::open(dir.join("from"))?)?;
    same(&dir.join("to"))
}

/// An overlay as a keeper mounts it, with one layer, a data-only one below, and a file that is in the latter.
fn redirect(dir: &Path) -> io::Result<()> {
    // Names in the mount's options are relative: no colon or comma of the store's own path can get in.
    std::env::set_current_dir(dir)?;
    for name in ["view", "data", "data/layer", "data/layer/fs", "upper", "work", "merged"] {
        fs::DirBuilder::new().mode(0o755).create(name)?;
    }
    fs::write("data/layer/fs/file", CONTENT)?;
    fs::set_permissions("data/layer/fs/file", fs::Permissions::from_mode(0o644))?;
    let view = File::create_new("view/file")?;
    view.set_len(CONTENT.len() as u64)?;
    let set = |name, value: &[u8]| rustix::fs::fsetxattr(&view, name, value, XattrFlags::empty());
    set("user.overlay.metacopy", b"")?;
    set("user.overlay.redirect", b"/layer/fs/file")?;
    let options = c"userxattr,lowerdir=view::data,upperdir=upper,workdir=work";
    rustix::mount::mount("overlay", "merged", "overlay", MountFlags::empty(), options)?;
    let result = same(Path::new("merged/file"));
    rustix::mount::unmount("merged", UnmountFlags::DETACH)?;
    result
}

fn same(path: &Path) -> io::Result<()> {
    match fs::read(path)? == CONTENT {
        true => Ok(()),
        false => Err(io::Error::other("it reads as something else")),
    }
}
