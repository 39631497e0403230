//! Extended attributes of image files: which are kept, and file capabilities for the right namespace. Pure.

pub(crate) const CAPABILITY: &[u8] = b"security.capability";
/// The version-3 form carries the namespace root that the capabilities are valid for.
const REVISION_MASK: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;

/// The attribute to set, or none if it has no meaning, or a dangerous one, in a layer directory.
pub(crate) fn keep<'a>(name: &'a [u8], value: &[u8]) -> Option<(&'a [u8], Vec<u8>)> {
    if name == CAPABILITY {
        return capability(value).map(|value| (name, value));
    }
    // The overlay's own attributes, by which a layer could rewrite what other layers show.
    if name.starts_with(b"user.overlay.") || !name.starts_with(b"user.") || name.contains(&0) {
        return None;
    }
    Some((name, value.to_vec()))
}

/// Rewrites file capabilities for the sandbox's root, which is id 1 of the namespace that unpacks.
fn capability(value: &[u8]) -> Option<Vec<u8>> {
    let magic = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    match (magic & REVISION_MASK, value.len()) {
        (REVISION_2, 20) | (REVISION_3, 24) => {
            let mut out = ((magic & !REVISION_MASK) | REVISION_3).to_le_bytes().to_vec();
            out.extend_from_slice(&value[4..20]);
            out.extend_from_slice(&1u32.to_le_bytes());
            Some(out)
        }
        _ => None,
    }
}

/// What is kept of a published file in a view of it: all that unpacking has kept or set. Labels of the kernel's own are not
/// ours to copy.
pub(crate) fn in_view(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == CAPABILITY
}

/// File capabilities for the root of another range. None for what unpacking does not leave behind.
pub(crate) fn shift_capability(value: &[u8], by: u32, ids: u32) -> Option<Vec<u8>> {
    with_root(value, |root| (1..=ids).contains(&root).then(|| root.checked_add(by))?)
}

/// File capabilities for the namespace root that `new` makes of the one they are for. None for a form that names none.
pub(crate) fn with_root(value: &[u8], new: impl FnOnce(u32) -> Option<u32>) -> Option<Vec<u8>> {
    let magic = u32::from_le_bytes(value.get(..4)?.try_into().ok()?);
    let root = u32::from_le_bytes(value.get(20..24)?.try_into().ok()?);
    if magic & REVISION_MASK != REVISION_3 || value.len() != 24 {
        return None;
    }
    let mut out = value.to_vec();
    out[20..].copy_from_slice(&new(root)?.to_le_bytes());
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_attributes_stay() {
        assert!(keep(b"user.mime_type", b"x").is_some());
        for name in [
            "trusted.overlay.opaque",
            "user.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "system.posix_acl_access",
            "trusted.x",
        ] {
            assert!(keep(name.as_bytes(), b"y").is_none(), "{name}");
        }
    }

    #[test]
    fn capabilities_become_those_of_the_sandbox_root() {
        let mut v2 = 0x0200_0001u32.to_le_bytes().to_vec();
        v2.extend([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let (_, v3) = keep(b"security.capability", &v2).unwrap();
        assert_eq!(v3.len(), 24);
        assert_eq!(v3[..4], 0x0300_0001u32.to_le_bytes());
        assert_eq!(v3[4..20], v2[4..]);
        assert_eq!(v3[20..], [1, 0, 0, 0]);
        let (_, again) = keep(b"security.capability", &v3).unwrap();
        assert_eq!(again, v3);
        assert!(keep(b"security.capability", &[0; 3]).is_none());
        assert!(keep(b"security.capability", &[0; 20]).is_none());
    }

    #[test]
    fn a_view_shifts_the_root_of_capabilities() {
        let mut v3 = 0x0300_0001u32.to_le_bytes().to_vec();
        v3.extend([0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        let shifted = shift_capability(&v3, 65_536, 65_536).unwrap();
        assert_eq!(shifted[..20], v3[..20]);
        assert_eq!(shifted[20..], 65_537u32.to_le_bytes());
        assert!(shift_capability(&shifted, 65_536, 65_536).is_none(), "not of home");
        assert!(shift_capability(&v3[..20], 65_536, 65_536).is_none());
        v3[3] = 2;
        assert!(shift_capability(&v3, 65_536, 65_536).is_none(), "not the form with a root");
        assert!(in_view(b"user.overlay.opaque") && in_view(b"security.capability"));
        assert!(!in_view(b"security.selinux") && !in_view(b"trusted.overlay.opaque"));
    }
}
