//! Names and references: `name`, `name.space`, or a uid.

use crate::error::ApiError;

/// The space that a request without one means.
pub const DEFAULT: &str = "default";
const MAX_NAME: usize = 63;

/// What a reference points at, inside one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Uid(String),
    Named { space: String, name: String },
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "with uid {uid}"),
            Self::Named { space, name } if space.is_empty() || space == DEFAULT => write!(f, "{name:?}"),
            Self::Named { space, name } => write!(f, "{name:?} in space {space:?}"),
        }
    }
}

/// A new uid. Uids grow with time, so lists by uid are lists by age.
pub fn new_uid() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A name for a workspace that was given none.
pub fn generated() -> String {
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("ws-{}", &random[..8])
}

/// Refuses what is not an RFC 1123 label, saying why.
pub fn check_label(field: &str, name: &str) -> Result<(), ApiError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = name.len() <= MAX_NAME
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !fits {
        let shown: String = name.chars().take(80).collect();
        return Err(ApiError::invalid(format!(
            "{field}: was {shown:?}; allowed: 1 to {MAX_NAME} of a-z, 0-9 and '-', not first or last"
        )));
    }
    if is_uid(name) {
        return Err(ApiError::invalid(format!("{field}: was {name:?}; a uid cannot be a name")));
    }
    Ok(())
}

/// Reads a reference to something that lies in a space.
pub fn parse_ref(reference: &str, space: &str) -> Result<Target, ApiError> {
    if reference.is_empty() {
        return Err(ApiError::invalid("ref: was empty; give a name, name.space or uid"));
    }
    if is_uid(reference) {
        return Ok(Target::Uid(reference.to_ascii_lowercase()));
    }
    let (name, space) = match reference.split_once('.') {
        Some((name, own)) if space.is_empty() || space == own => (name, own),
        Some((_, own)) => {
            return Err(ApiError::invalid(format!(
                "ref: was {reference:?} together with space {space:?}; name only one of {own:?} and {space:?}"
            )));
        }
        None if space.is_empty() => (reference, DEFAULT),
        None => (reference, space),
    };
    check_label("ref", name)?;
    check_label("space", space)?;
    Ok(Target::Named { space: space.to_owned(), name: name.to_owned() })
}

/// Reads a reference to a space.
pub fn parse_space_ref(reference: &str) -> Result<Target, ApiError> {
    if is_uid(reference) {
        return Ok(Target::Uid(reference.to_ascii_lowercase()));
    }
    check_label("ref", reference)?;
    Ok(Target::Named { space: String::new(), name: reference.to_owned() })
}

fn is_uid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn named(space: &str, name: &str) -> Target {
        Target::Named { space: space.into(), name: name.into() }
    }

    #[test]
    fn references_in_all_their_forms() {
        assert_eq!(parse_ref("web", "").unwrap(), named("default", "web"));
        assert_eq!(parse_ref("web", "team").unwrap(), named("team", "web"));
        assert_eq!(parse_ref("web.team", "").unwrap(), named("team", "web"));
        assert_eq!(parse_ref("web.team", "team").unwrap(), named("team", "web"));
        assert!(parse_ref("web.team", "other").is_err());
        let uid = new_uid();
        assert_eq!(parse_ref(&uid.to_uppercase(), "").unwrap(), Target::Uid(uid));
        assert!(parse_ref("", "").is_err());
        assert!(parse_ref("a.b.c", "").is_err());
    }

    #[test]
    fn labels() {
        for good in ["a", "0", "a-b", &"x".repeat(63), &generated()] {
            assert!(check_label("name", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &"x".repeat(64), &new_uid()] {
            let error = check_label("name", bad).unwrap_err().to_string();
            assert!(error.starts_with("name: was "), "{error}");
        }
    }
}
