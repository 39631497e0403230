//! Attributes by which an overlay would look elsewhere for a file: they must mean nothing to the sandbox's root.

use std::{fs, path::Path};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};
use rustix::fs::{XattrFlags, setxattr};

use crate::{Layer, Probe, places};

pub fn attributes(probe: &mut Probe) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap_or_default();
    let followed = ["redirect_dir=on", "redirect_dir=follow", "metacopy=on"];
    let seen = match followed.iter().find(|option| root.contains(*option)) {
        None if root.contains("userxattr") => Ok("neither redirect_dir nor metacopy".to_owned()),
        None => Err(format!("the root is not an overlay with userxattr: {root}")),
        Some(option) => Err(format!("the root is mounted with {option}")),
    };
    probe.confined("have the root's overlay follow redirects", Layer::OuterMount, seen);
    let dir = Path::new("/cordium-escape-redirect");
    if let Err(error) = fs::create_dir_all(dir) {
        return probe.broken("making a directory", error);
    }
    for name in ["trusted.overlay.redirect", "trusted.overlay.metacopy", "trusted.overlay.opaque"] {
        let set = setxattr(dir, name, b"/etc", XattrFlags::empty());
        probe.refused(format!("set {name}"), Layer::UserNamespace, &[Errno::EPERM, Errno::EOPNOTSUPP], set);
    }
    // Where the kernel lets it through, the overlay stores it under a name that means nothing to itself.
    for name in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let set = setxattr(dir, name, b"/etc", XattrFlags::empty());
        let shows = fs::read_dir(dir).map(Iterator::count).unwrap_or_default();
        let seen = if shows == 0 {
            Ok(format!("{set:?}; it stays empty"))
        } else {
            Err(format!("it shows {shows} files"))
        };
        probe.confined(format!("set {name}"), Layer::OuterMount, seen);
    }
    probe.child("own mounts", places::own_mounts, nested);
}

/// An overlay of the tenant's own, over directories of the volume that carry what it likes.
fn nested(probe: &mut Probe) {
    let base = Path::new("/workspace/.cordium-escape-overlay");
    let _ = fs::remove_dir_all(base);
    for dir in ["lower/secret", "upper/stolen", "work", "merged"] {
        if let Err(error) = fs::create_dir_all(base.join(dir)) {
            return probe.broken("making directories", error);
        }
    }
    let host = probe.facts.list("markers").first().map_or("/etc".to_owned(), |path| {
        Path::new(path).parent().unwrap_or(Path::new("/")).display().to_string()
    });
    for name in ["user.overlay.redirect", "user.overlay.metacopy"] {
        let set = setxattr(base.join("upper/stolen"), name, host.as_bytes(), XattrFlags::empty());
        let outcome =
            set.map(|()| "set on the tenant's own file".to_owned()).or_else(|error| Ok(error.to_string()));
        probe.confined(format!("set {name} to {host} on the volume"), Layer::NamespaceScope, outcome);
    }
    for extra in ["userxattr,redirect_dir=on", "userxattr,metacopy=on"] {
        let mounted = overlay(base, extra);
        probe.refused(
            format!("mount an overlay with {extra}"),
            Layer::Kernel,
            &[Errno::EINVAL, Errno::EPERM],
            mounted,
        );
    }
    for extra in ["userxattr", "redirect_dir=on,metacopy=on"] {
        let seen = match overlay(base, extra) {
            Ok(()) => {
                let shown = fs::read_dir(base.join("merged/stolen")).map(Iterator::count).unwrap_or_default();
                let _ = nix::mount::umount2(&base.join("merged"), nix::mount::MntFlags::MNT_DETACH);
                if shown == 0 {
                    Ok("nothing shows".to_owned())
                } else {
                    Err(format!("{shown} files of {host} show"))
                }
            }
            Err(error) => Ok(error.to_string()),
        };
        probe.confined(format!("mount an overlay with {extra}"), Layer::NamespaceScope, seen);
    }
    let _ = fs::remove_dir_all(base);
}

fn overlay(base: &Path, extra: &str) -> nix::Result<()> {
    let dir = |name: &str| base.join(name).display().to_string();
    let data = format!("lowerdir={},upperdir={},workdir={},{extra}", dir("lower"), dir("upper"), dir("work"));
    mount(Some("overlay"), &base.join("merged"), Some("overlay"), MsFlags::empty(), Some(data.as_str()))
}
