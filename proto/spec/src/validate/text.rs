//! Lengths and characters.

use super::At;
use crate::error::SpecError;

/// 1 to `max` characters, line breaks included; no NUL.
pub(super) fn block(at: At<'_>, text: &str, max: usize) -> Result<(), SpecError> {
    length(at, text, max)?;
    if text.contains('\0') {
        return Err(at.was(text, "text without NUL"));
    }
    Ok(())
}

/// 1 to `max` characters, none of them a control character.
pub(super) fn line(at: At<'_>, text: &str, max: usize) -> Result<(), SpecError> {
    length(at, text, max)?;
    if text.chars().any(char::is_control) {
        return Err(at.was(text, "text without line breaks and control characters"));
    }
    Ok(())
}

/// As [`line()`], or nothing at all.
pub(super) fn optional_line(at: At<'_>, text: &str, max: usize) -> Result<(), SpecError> {
    if text.is_empty() { Ok(()) } else { line(at, text, max) }
}

fn length(at: At<'_>, text: &str, max: usize) -> Result<(), SpecError> {
    // Bytes first: counting characters of something huge is not needed to refuse it.
    if text.is_empty() {
        return Err(at.was("", format!("1 to {max} characters")));
    }
    if text.len() > 4 * max || text.chars().count() > max {
        return Err(at.error(format!("was {} bytes long; allowed: 1 to {max} characters", text.len())));
    }
    Ok(())
}

/// An absolute path without `.`, `..` and empty parts, at most 256 characters.
pub(super) fn absolute_path(at: At<'_>, path: &str) -> Result<(), SpecError> {
    line(at, path, 256)?;
    if at.is_open(path) {
        return Ok(());
    }
    let sound = path == "/" || path.strip_prefix('/').is_some_and(has_plain_parts);
    if sound {
        Ok(())
    } else {
        Err(at.was(path, "an absolute path without '.', '..', '//' and a '/' at the end"))
    }
}

/// A relative path without `.`, `..` and empty parts, at most 256 characters.
pub(super) fn relative_path(at: At<'_>, path: &str) -> Result<(), SpecError> {
    line(at, path, 256)?;
    if at.is_open(path) || path == "." || has_plain_parts(path) {
        return Ok(());
    }
    Err(at.was(path, "a path inside the repository, without '..' and not beginning with '/'"))
}

pub(super) fn has_plain_parts(path: &str) -> bool {
    path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}
