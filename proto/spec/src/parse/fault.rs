//! What can be wrong when a tree is read as types, in terms of the schema instead of the parser's.

use std::fmt;

use serde::de::{self, Expected, Unexpected};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::error::{SpecError, quote};

/// One mismatch between tree and type.
#[derive(Debug)]
pub(super) enum Fault {
    UnknownField { name: String, allowed: &'static [&'static str] },
    UnknownVariant { allowed: &'static [&'static str] },
    Missing { name: &'static str },
    Wrong { expected: String },
    Other { message: String },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other { message: message.to_string() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::UnknownField { name: field.to_string(), allowed: expected }
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::UnknownVariant { allowed: expected }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing { name: field }
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Wrong { expected: in_words(&expected.to_string()) }
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::Wrong { expected: in_words(&expected.to_string()) }
    }
}

fn in_words(expected: &str) -> String {
    match expected {
        "a string" => "text (put it in quotes)".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "u16" => "a whole number from 1 to 65535".into(),
        "u32" | "u64" => "a whole number, not negative".into(),
        other if other.starts_with("struct ") => "a mapping".into(),
        other if other.starts_with("enum ") || other.ends_with("variant") => {
            "a mapping with exactly one field".into()
        }
        other => other.into(),
    }
}

impl Fault {
    /// The error for people; `tree` is what was read, `path` where the fault is in it.
    pub(super) fn explain(self, tree: &Value, root: &str, path: &Path) -> SpecError {
        let at = join(root, path);
        let found = lookup(tree, path);
        match self {
            Self::UnknownField { name, allowed } => {
                // The reader may or may not have taken the unknown name into the path already.
                let mut segments: Vec<_> = path.iter().collect();
                if segments.last().is_some_and(|last| matches!(last, Segment::Map { key } if *key == name)) {
                    segments.pop();
                }
                let mut at = join_segments(root, segments);
                push_field(&mut at, &name);
                let hint = closest(&name, allowed)
                    .map(|near| format!(" did you mean {near:?}?"))
                    .unwrap_or_default();
                SpecError::new(at, format!("unknown field;{hint} allowed: {}", allowed.join(", ")))
            }
            Self::UnknownVariant { allowed } => {
                let was = match found {
                    Some(Value::Object(fields)) => {
                        fields.keys().next().map_or_else(|| "{}".to_string(), |key| quote(key))
                    }
                    Some(value) => show(value),
                    None => "something else".into(),
                };
                SpecError::new(at, format!("was {was}; allowed: {}", allowed.join(", ")))
            }
            Self::Missing { name } => {
                let at = if at.is_empty() { name.to_string() } else { format!("{at}.{name}") };
                SpecError::new(at, format!("missing; allowed: {}", required(name)))
            }
            Self::Wrong { expected } => {
                let was = found.map_or_else(|| "something else".to_string(), show);
                SpecError::new(at, format!("was {was}; allowed: {expected}"))
            }
            Self::Other { message } => SpecError::new(at, message),
        }
    }
}

/// What is expected of a field that has no default.
fn required(name: &str) -> &'static str {
    match name {
        "type" => "ON_CREATE, POST_START, PRE_STOP",
        "action" => "ALLOW, DENY",
        "port" => "a whole number from 1 to 65535",
        "cidrs" => "a list of networks such as 10.0.0.0/8",
        "millicores" | "megabytes" => "a whole number",
        "http" | "password" | "repository" | "volumeRef" => "a mapping",
        _ => "text",
    }
}

/// A value as an error shows it.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => {
            let names: Vec<_> = fields.keys().take(5).map(|key| quote(key)).collect();
            format!("a mapping with {}", if names.is_empty() { "no field".into() } else { names.join(", ") })
        }
        other => other.to_string(),
    }
}

/// `spec` + `.runtime.tasks[0]`.
pub(super) fn join(root: &str, path: &Path) -> String {
    join_segments(root, path.iter())
}

fn join_segments<'a>(root: &str, segments: impl IntoIterator<Item = &'a Segment>) -> String {
    let mut text = root.to_string();
    for segment in segments {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } => push_field(&mut text, key),
            Segment::Enum { variant } => push_field(&mut text, variant),
            Segment::Unknown => {}
        }
    }
    text
}

fn push_field(text: &mut String, name: &str) {
    if !text.is_empty() {
        text.push('.');
    }
    let shown = quote(name);
    text.push_str(&shown[1..shown.len() - 1]);
}

fn lookup<'a>(tree: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(tree, |value, segment| match segment {
        Segment::Seq { index } => value.get(index),
        Segment::Map { key } => value.get(key),
        Segment::Enum { variant } => value.get(variant),
        Segment::Unknown => Some(value),
    })
}

/// The allowed name that was probably meant.
fn closest(name: &str, allowed: &[&'static str]) -> Option<&'static str> {
    let plain = |text: &str| text.to_lowercase().replace(['_', '-'], "");
    if name.len() > 64 {
        return None;
    }
    allowed
        .iter()
        .map(|known| (distance(&plain(name), &plain(known)), *known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3)
        .map(|(_, known)| known)
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found() {
        let allowed = &["workingDir", "envVars", "run", "isBackground"];
        assert_eq!(closest("working_dir", allowed), Some("workingDir"));
        assert_eq!(closest("envvar", allowed), Some("envVars"));
        assert_eq!(closest("zebra", allowed), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
