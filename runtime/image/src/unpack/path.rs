//! Entry names: what is a usable path of a layer, and which names are whiteouts. Pure.

use super::protocol::Fault;
use crate::config::Limits;

/// What an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Root,
    /// `parent` is without slashes at its ends, and empty for the root.
    Path {
        parent: Vec<u8>,
        name: Vec<u8>,
    },
    /// Hides `name` of the layers below.
    Whiteout {
        parent: Vec<u8>,
        name: Vec<u8>,
    },
    /// Hides everything in `parent` of the layers below.
    Opaque {
        parent: Vec<u8>,
    },
    /// Book-keeping of old storage drivers.
    Ignore,
}

/// Relative components. A leading slash means the layer's root; `..` is refused.
pub(crate) fn components<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Fault> {
    if path.contains(&0) {
        return Err(Fault::entry(path, "its name contains a NUL byte"));
    }
    if path.len() >= limits.path_length {
        let limit = limits.path_length as u64;
        return Err(Fault::Limit { what: "path length".into(), limit, entry: super::protocol::show(path) });
    }
    let mut parts = Vec::new();
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err(Fault::entry(path, "its name leads out of the layer with .."));
        }
        if part.len() > limits.name_length {
            let limit = limits.name_length as u64;
            return Err(Fault::Limit {
                what: "name length".into(),
                limit,
                entry: super::protocol::show(path),
            });
        }
        parts.push(part);
    }
    if parts.len() > limits.path_depth {
        let limit = limits.path_depth as u64;
        return Err(Fault::Limit { what: "path depth".into(), limit, entry: super::protocol::show(path) });
    }
    Ok(parts)
}

pub(crate) fn target(path: &[u8], limits: &Limits) -> Result<Target, Fault> {
    let parts = components(path, limits)?;
    let Some((name, parents)) = parts.split_last() else { return Ok(Target::Root) };
    if parents.iter().any(|part| part.starts_with(b".wh.")) {
        // Only old storage drivers' own directories hold entries below such a name.
        return match parents.iter().all(|part| !part.starts_with(b".wh.") || part.starts_with(b".wh..wh.")) {
            true => Ok(Target::Ignore),
            false => Err(Fault::entry(path, "it lies below a whiteout")),
        };
    }
    let parent = parents.join(&b'/');
    let Some(hidden) = name.strip_prefix(b".wh.") else {
        return Ok(Target::Path { parent, name: name.to_vec() });
    };
    match hidden {
        b".wh..opq" => Ok(Target::Opaque { parent }),
        b"" | b"." | b".." => Err(Fault::entry(path, "it is a whiteout of the layer's root or of nothing")),
        _ if hidden.starts_with(b".wh.") => Ok(Target::Ignore),
        _ => Ok(Target::Whiteout { parent, name: hidden.to_vec() }),
    }
}

pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<Target, Fault> {
        target(path.as_bytes(), &Limits::default())
    }

    #[test]
    fn names_are_taken_below_the_root() {
        for path in ["a/b", "/a/b", "./a//b/", "a/./b/."] {
            assert_eq!(of(path).unwrap(), Target::Path { parent: b"a".into(), name: b"b".into() }, "{path}");
        }
        for path in ["", ".", "/", "./", "././"] {
            assert_eq!(of(path).unwrap(), Target::Root, "{path}");
        }
    }

    #[test]
    fn escapes_are_refused() {
        for path in ["..", "../a", "a/../../b", "a/..", "/..", "a\0b"] {
            assert!(matches!(of(path), Err(Fault::Entry { .. })), "{path}");
        }
    }

    #[test]
    fn whiteouts() {
        assert_eq!(of("a/.wh.b").unwrap(), Target::Whiteout { parent: b"a".into(), name: b"b".into() });
        assert_eq!(of("a/.wh..wh..opq").unwrap(), Target::Opaque { parent: b"a".into() });
        assert_eq!(of(".wh..wh..opq").unwrap(), Target::Opaque { parent: b"".into() });
        assert_eq!(of(".wh..wh.plnk").unwrap(), Target::Ignore);
        assert_eq!(of(".wh..wh.plnk/1.2").unwrap(), Target::Ignore);
        for path in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh...", ".wh.a/b"] {
            assert!(matches!(of(path), Err(Fault::Entry { .. })), "{path}");
        }
    }

    #[test]
    fn lengths_and_depth_are_bounded() {
        let long = "x".repeat(256);
        let deep = "d/".repeat(257);
        let far = "abcdefg/".repeat(512);
        for path in [long, deep, far] {
            assert!(matches!(of(&path), Err(Fault::Limit { .. })), "{}", &path[..10]);
        }
        assert!(of(&"x".repeat(255)).is_ok());
    }
}
