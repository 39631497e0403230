//! Names of resources, variables and environment keys.

use std::collections::HashSet;

use super::{At, Stage};
use crate::error::SpecError;

/// Characters of a name.
pub const MAX_NAME: usize = 63;

const LABEL: &str = "1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit";

/// A resource's name: an RFC 1123 label. `field` is the path that an error shows.
pub fn validate_name(field: &str, name: &str) -> Result<(), SpecError> {
    label(At::root(field, Stage::Draft), name)
}

fn is_label(name: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(|c| alphanumeric(c) || c == '-')
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
}

pub(super) fn label(at: At<'_>, name: &str) -> Result<(), SpecError> {
    if is_label(name) { Ok(()) } else { Err(at.was(name, LABEL)) }
}

/// A reference to a resource: a name, or `<name>.<space>` and longer.
pub(super) fn dotted(at: At<'_>, name: &str) -> Result<(), SpecError> {
    if name.len() <= 253 && name.split('.').all(is_label) {
        return Ok(());
    }
    Err(at.was(name, format!("a name: {LABEL}")))
}

pub(super) fn variable(at: At<'_>, name: &str) -> Result<(), SpecError> {
    let sound = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    if sound {
        return Ok(());
    }
    Err(at.was(name, "1 to 64 letters, digits, '_' and '-', beginning with a letter or '_'"))
}

pub(super) fn env_key(at: At<'_>, key: &str) -> Result<(), SpecError> {
    let sound = (1..=64).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic() && c != '=');
    if sound { Ok(()) } else { Err(at.was(key, "1 to 64 printable ASCII characters without '=' and blanks")) }
}

/// Refuses the first name that was there before.
pub(super) fn unique<'a>(
    at: At<'_>,
    field: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), SpecError> {
    let mut seen = HashSet::new();
    for (index, name) in names.into_iter().enumerate() {
        if !seen.insert(name) {
            return Err(at.index(index).field(field).was(name, "a name that is not used twice"));
        }
    }
    Ok(())
}
