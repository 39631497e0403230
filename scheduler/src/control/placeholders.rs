//! What a workspace has in place of a credential's value: random, but of a shape that programs take for a credential.
//!
//! Kept of the value are its length, the kinds of its characters and a beginning by which everybody knows such tokens. None of that
//! is secret; all else is random.

use std::collections::HashMap;

use bytes::Bytes;
use cordium_spec::binding::{MAX_PLACEHOLDER, MIN_PLACEHOLDER, check_value, trimmed};

use crate::{crypt, error::ApiError, specs};

/// By which programs know tokens. The longest that fits is kept.
const BEGINNINGS: [&str; 40] = [
    "AIza",
    "AKIA",
    "ASIA",
    "SG.",
    "dapi",
    "dckr_pat_",
    "dop_v1_",
    "eyJ",
    "figd_",
    "gho_",
    "ghp_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "glptt-",
    "gsk_",
    "hf_",
    "lin_api_",
    "npm_",
    "ntn_",
    "pk_live_",
    "pk_test_",
    "pypi-",
    "r8_",
    "rk_live_",
    "shpat_",
    "sk-",
    "sk-ant-",
    "sk-ant-api03-",
    "sk-proj-",
    "sk_live_",
    "sk_test_",
    "sntrys_",
    "tskey-",
    "xapp-",
    "xoxb-",
    "xoxp-",
    "ya29.",
];
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &[u8] = b"0123456789";

/// Gives each credential of a resolved spec its placeholder, unless the spec says one. A value that cannot be put on a request is
/// refused here.
pub fn fill(spec_json: &str, values: &HashMap<String, Bytes>) -> Result<String, ApiError> {
    let mut spec = cordium_spec::parse_resolved_json(spec_json)?;
    for (index, credential) in spec.runtime.network.credentials.iter_mut().enumerate() {
        let Some(value) = values.get(&credential.from_secret).map(|value| trimmed(value)) else { continue };
        check_value(value).map_err(|error| {
            ApiError::invalid(format!(
                "spec.runtime.network.credentials[{index}].fromSecret: was {:?}; its value {}",
                credential.from_secret, error.problem
            ))
        })?;
        if credential.placeholder.is_none() {
            credential.placeholder = Some(like(value)?);
        }
    }
    specs::to_json(&spec)
}

fn like(value: &[u8]) -> Result<String, ApiError> {
    let known = BEGINNINGS.iter().filter(|known| value.starts_with(known.as_bytes()));
    let begin = known.max_by_key(|known| known.len()).copied().unwrap_or_default();
    let rest = &value[begin.len()..];
    let alphabet = alphabet(rest);
    let length = rest.len().max(MIN_PLACEHOLDER).min(MAX_PLACEHOLDER - begin.len());
    let mut text = begin.to_owned();
    let mut source = Random::default();
    for index in 0..length {
        // The one shape in which dashes have their places.
        match is_uuid(rest) && rest.get(index) == Some(&b'-') {
            true => text.push('-'),
            false => text.push(char::from(source.one_of(&alphabet)?)),
        }
    }
    Ok(text)
}

fn alphabet(value: &[u8]) -> Vec<u8> {
    let all = |allowed: fn(u8) -> bool| value.iter().filter(|byte| **byte != b'-').all(|byte| allowed(*byte));
    if !value.is_empty() && all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return b"0123456789abcdef".to_vec();
    }
    if !value.is_empty() && all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)) {
        return b"0123456789ABCDEF".to_vec();
    }
    let present =
        [LOWER, UPPER, DIGITS].into_iter().filter(|class| value.iter().any(|byte| class.contains(byte)));
    let alphabet: Vec<u8> = present.flatten().copied().collect();
    // Digits alone are too few to be random, and would look like a number.
    if alphabet.len() < LOWER.len() { [LOWER, DIGITS].concat() } else { alphabet }
}

fn is_uuid(value: &[u8]) -> bool {
    value.len() == 36
        && value.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Bytes from the kernel, a few at a time.
#[derive(Default)]
struct Random(Vec<u8>);

impl Random {
    /// Each with the same chance.
    fn one_of(&mut self, alphabet: &[u8]) -> Result<u8, ApiError> {
        let fair = 256 / alphabet.len() * alphabet.len();
        loop {
            if self.0.is_empty() {
                self.0 = crypt::random_bytes()?.to_vec();
            }
            if let Some(byte) = self.0.pop().map(usize::from).filter(|byte| *byte < fair) {
                return Ok(alphabet[byte % alphabet.len()]);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use cordium_spec::binding::check_placeholder;

    use super::*;

    #[test]
    fn a_placeholder_looks_like_the_value_and_has_nothing_of_it() {
        for (value, begin, class) in [
            ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "ghp_", "lower upper digit"),
            ("sk-ant-api03-AbC_dEf-0123456789xyzXYZ", "sk-ant-api03-", "lower upper digit"),
            ("AKIAIOSFODNN7EXAMPLE", "AKIA", "upper digit"),
            ("0123456789abcdef0123456789abcdef", "", "hex"),
            ("hunter2hunter2hunter2", "", "lower digit"),
        ] {
            let placeholder = like(value.as_bytes()).unwrap();
            check_placeholder(&placeholder).unwrap();
            assert!(placeholder.starts_with(begin), "{placeholder}");
            assert_eq!(placeholder.len(), value.len(), "{placeholder}");
            assert_ne!(placeholder, value);
            let rest = &placeholder[begin.len()..];
            let allowed = |byte: u8| match class {
                "hex" => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
                _ => {
                    (class.contains("lower") && byte.is_ascii_lowercase())
                        || (class.contains("upper") && byte.is_ascii_uppercase())
                        || (class.contains("digit") && byte.is_ascii_digit())
                }
            };
            assert!(rest.bytes().all(allowed), "{placeholder}");
        }
        let uuid = like(b"123e4567-e89b-12d3-a456-426614174000").unwrap();
        assert!(is_uuid(uuid.as_bytes()), "{uuid}");
    }

    #[test]
    fn short_or_odd_values_have_one_that_cannot_stand_anywhere_by_chance() {
        for value in ["1", "12345678", "p", "---", "a b", "ghp_x"] {
            let placeholder = like(value.as_bytes()).unwrap();
            check_placeholder(&placeholder).unwrap();
        }
        let long = like("x9".repeat(8192).as_bytes()).unwrap();
        assert_eq!(long.len(), MAX_PLACEHOLDER);
        let many: BTreeSet<String> = (0..100).map(|_| like(b"x").unwrap()).collect();
        assert_eq!(many.len(), 100);
    }
}
