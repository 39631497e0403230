//! Where volumes may appear.

use super::{At, names, text};
use crate::error::SpecError;
use crate::model::VolumeMount;

/// A mount on one of these, below it or above it would hide what the sandbox needs.
const RESERVED_TREES: [&str; 8] = [
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/workspace",
    "/cordium-volumes",
    "/var/lib/containers",
    "/var/lib/docker",
];

/// A mount on one of these would hide the system; below them is fine.
const RESERVED: [&str; 18] = [
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/libexec",
    "/opt",
    "/root",
    "/sbin",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/var/tmp",
];

pub(super) fn mounts(at: At<'_>, mounts: &[VolumeMount]) -> Result<(), SpecError> {
    at.count(mounts.len(), 32)?;
    for (index, mount) in mounts.iter().enumerate() {
        let at = at.index(index);
        let here = at.field("volumeRef");
        match (mount.volume_ref.name.as_str(), mount.volume_ref.uid.as_str()) {
            ("", "") => return Err(here.error("was empty; allowed: the name or the uid of a Volume")),
            ("", uid) => text::line(here.field("uid"), uid, 64)?,
            (name, uid) => {
                names::dotted(here.field("name"), name)?;
                text::optional_line(here.field("uid"), uid, 64)?;
            }
        }
        let here = at.field("mountPath");
        let path = mount.mount_path.as_str();
        text::absolute_path(here, path)?;
        if let Some(tree) = RESERVED_TREES.iter().find(|tree| overlap(path, tree)) {
            return Err(here.was(path, format!("a path outside of {tree}, which is reserved")));
        }
        if RESERVED.contains(&path) {
            return Err(here.was(path, "a path that is not reserved, such as /data"));
        }
        if let Some(other) = mounts[..index].iter().find(|other| overlap(path, &other.mount_path)) {
            return Err(here.was(path, format!("a path that does not overlap {}", other.mount_path)));
        }
    }
    Ok(())
}

/// Whether one path is the other or lies in it.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || outer.ends_with('/'))
    };
    inside(a, b) || inside(b, a)
}
