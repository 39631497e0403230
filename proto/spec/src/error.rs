//! The one error of this crate: a field, what it was, and what is allowed there.

/// The first thing that is wrong with a document. Displayed as
/// `spec.runtime.tasks[0].type: was "FOO"; allowed: ON_CREATE, POST_START, PRE_STOP`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", prefix(path))]
pub struct SpecError {
    /// Where, as `spec.runtime.tasks[0].type`. Empty for what concerns the whole document.
    pub path: String,
    /// What it was and what is allowed.
    pub message: String,
}

/// How an error says that a variable which the field uses is not set.
pub(crate) const UNSET_VARS: &str = "variables that were not set";

impl SpecError {
    /// True when the field is wrong because a variable in it has no value: the variables of a start may mend it.
    pub fn wants_vars(&self) -> bool {
        self.message.contains(UNSET_VARS)
    }

    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// `was "x"; allowed: …`
    pub(crate) fn was(path: impl Into<String>, value: &str, allowed: impl std::fmt::Display) -> Self {
        Self::new(path, format!("was {}; allowed: {allowed}", quote(value)))
    }
}

fn prefix(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}: ") }
}

/// Characters of a value that an error repeats.
const SHOWN: usize = 64;

/// A value as an error shows it: quoted, control characters escaped, cut to a readable length.
pub(crate) fn quote(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_and_escaped() {
        let long = quote(&"é".repeat(10_000));
        assert_eq!(long.chars().count(), SHOWN + 3);
        assert_eq!(quote("a\u{1b}[31m\n"), "\"a\\u{1b}[31m\\n\"");
    }

    #[test]
    fn a_pathless_error_has_no_colon() {
        assert_eq!(SpecError::new("", "was empty").to_string(), "was empty");
    }
}
