//! Finds a placeholder where clients put credentials, and puts the value there.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use cordium_egress::path::{escaped, is_unreserved};
use zeroize::Zeroizing;

/// With or without padding, as servers take it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Bytes that have or had a value in them.
pub(super) type Bytes = Zeroizing<Vec<u8>>;

pub(super) fn contains(text: &[u8], placeholder: &[u8]) -> bool {
    position(text, placeholder).is_some()
}

fn position(text: &[u8], placeholder: &[u8]) -> Option<usize> {
    let (first, rest) = placeholder.split_first()?;
    let mut at = 0;
    while let Some(step) = text.get(at..)?.iter().position(|byte| byte == first) {
        at += step;
        if text[at + 1..].starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn replaced(text: &[u8], placeholder: &[u8], value: &[u8]) -> Option<Bytes> {
    let mut found = position(text, placeholder)?;
    // A vector that grows would leave copies behind: each placeholder takes at least its own length of the text.
    let most = text.len() / placeholder.len() * value.len() + text.len();
    let mut made = Zeroizing::new(Vec::with_capacity(most));
    let mut rest = text;
    loop {
        made.extend_from_slice(&rest[..found]);
        made.extend_from_slice(value);
        rest = &rest[found + placeholder.len()..];
        match position(rest, placeholder) {
            Some(next) => found = next,
            None => break,
        }
    }
    made.extend_from_slice(rest);
    Some(made)
}

/// A header's value with the placeholder replaced, in what Basic encodes too; `None` if it is not there.
pub(super) fn in_header(text: &[u8], placeholder: &[u8], value: &[u8]) -> Option<Bytes> {
    if let Some(made) = replaced(text, placeholder, value) {
        return Some(made);
    }
    let made = replaced(&basic(text)?, placeholder, value)?;
    Some(as_basic(&made))
}

pub(super) fn is_in_header(text: &[u8], placeholder: &[u8]) -> bool {
    contains(text, placeholder) || basic(text).is_some_and(|text| contains(&text, placeholder))
}

/// What stands in `Basic …`.
fn basic(text: &[u8]) -> Option<Bytes> {
    let (scheme, rest) = text.split_at_checked(5)?;
    let encoded = rest.trim_ascii();
    if !scheme.eq_ignore_ascii_case(b"basic") || encoded.len() == rest.len() {
        return None;
    }
    LENIENT.decode(encoded).ok().map(Zeroizing::new)
}

/// `Basic` and these bytes encoded.
pub(super) fn as_basic(text: &[u8]) -> Bytes {
    let encoded = Zeroizing::new(STANDARD.encode(text));
    let mut made = Zeroizing::new(Vec::with_capacity(6 + encoded.len()));
    made.extend_from_slice(b"Basic ");
    made.extend_from_slice(encoded.as_bytes());
    made
}

/// A query with the placeholder replaced, escaped or not; `None` if it is not there.
pub(super) fn in_query(query: &str, placeholder: &[u8], value: &[u8]) -> Option<Zeroizing<String>> {
    if !is_in_query(query, placeholder) {
        return None;
    }
    let escaped = escape(value);
    let mut made = Zeroizing::new(String::new());
    for (index, piece) in query.split('&').enumerate() {
        if index > 0 {
            made.push('&');
        }
        // What is not the placeholder stays as it is written, as far as that goes.
        let plain = Zeroizing::new(piece.replace(std::str::from_utf8(placeholder).ok()?, &escaped));
        let halves: Vec<_> = plain.splitn(2, '=').map(|half| unescaped(half, placeholder, value)).collect();
        let joined = Zeroizing::new(halves.iter().map(|half| half.as_str()).collect::<Vec<_>>().join("="));
        // A '=' of the placeholder itself may stand between the halves.
        made.push_str(&unescaped(&joined, placeholder, value));
    }
    Some(made)
}

/// A text in which the placeholder may be escaped.
fn unescaped(text: &str, placeholder: &[u8], value: &[u8]) -> Zeroizing<String> {
    match replaced(&unescape(text), placeholder, value) {
        Some(made) => escape(&made),
        None => Zeroizing::new(text.to_owned()),
    }
}

pub(super) fn is_in_query(query: &str, placeholder: &[u8]) -> bool {
    contains(query.as_bytes(), placeholder) || contains(&unescape(query), placeholder)
}

/// Percent signs that are no escapes stand for themselves.
pub(super) fn unescape(text: &str) -> Bytes {
    let bytes = text.as_bytes();
    let mut made = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let decoded = if *byte == b'%' {
            escaped([bytes.get(at + 1).copied(), bytes.get(at + 2).copied()])
        } else {
            None
        };
        made.push(decoded.unwrap_or(*byte));
        at += if decoded.is_some() { 3 } else { 1 };
    }
    made
}

pub(super) fn escape(text: &[u8]) -> Zeroizing<String> {
    let mut made = Zeroizing::new(String::with_capacity(3 * text.len()));
    for byte in text {
        if is_unreserved(*byte) {
            made.push(char::from(*byte));
        } else {
            let digit = |digit: u8| char::from(b"0123456789ABCDEF"[usize::from(digit & 15)]);
            made.extend(['%', digit(byte >> 4), digit(*byte)]);
        }
    }
    made
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: &[u8] = b"ghp_placeholder/0+=";

    fn header(text: &str) -> Option<String> {
        in_header(text.as_bytes(), HOLD, b"s3 cret").map(|made| String::from_utf8(made.to_vec()).unwrap())
    }

    fn query(text: &str) -> Option<String> {
        in_query(text, HOLD, b"s3 cret&").map(|made| made.to_string())
    }

    #[test]
    fn it_is_replaced_wherever_it_stands_in_a_header() {
        assert_eq!(header("Bearer ghp_placeholder/0+=").as_deref(), Some("Bearer s3 cret"));
        assert_eq!(header("ghp_placeholder/0+=ghp_placeholder/0+=x").as_deref(), Some("s3 crets3 cretx"));
        assert_eq!(header("Bearer ghp_placeholder/0+"), None);
        assert_eq!(header(""), None);
    }

    #[test]
    fn it_is_replaced_within_basic() {
        let encode = |text: &str| STANDARD.encode(text);
        let (before, after) = (encode("git:ghp_placeholder/0+="), encode("git:s3 cret"));
        for text in [format!("Basic {before}"), format!("bASIC   {}", before.trim_end_matches('='))] {
            assert_eq!(header(&text), Some(format!("Basic {after}")), "{text}");
        }
        assert_eq!(header(&format!("Basic {}", encode("git:other"))), None);
        assert_eq!(header(&format!("Basic{before}")), None);
        assert_eq!(header("Basic !!!"), None);
        assert!(is_in_header(format!("Basic {before}").as_bytes(), HOLD));
    }

    #[test]
    fn it_is_replaced_in_a_query_escaped_or_not() {
        assert_eq!(query("a=1&key=ghp_placeholder/0+=&b").as_deref(), Some("a=1&key=s3%20cret%26&b"));
        assert_eq!(query("key=ghp_placeholder%2f0%2B%3d").as_deref(), Some("key=s3%20cret%26"));
        assert_eq!(query("%67hp_placeholder/0+%3D=x&c%20=%zz").as_deref(), Some("s3%20cret%26=x&c%20=%zz"));
        assert_eq!(
            query("ghp_placeholder/0+=ghp_placeholder/0+=&x").as_deref(),
            Some("s3%20cret%26s3%20cret%26&x")
        );
        assert_eq!(query("%67hp_placeholder/0+=").as_deref(), Some("s3%20cret%26"));
        assert_eq!(query("a=1&&b=%&=="), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_replaced_is_gone(
            before in "[ -~]{0,20}",
            after in "[ -~]{0,20}",
            count in 0_usize..3,
            value in "[ -~]{0,10}",
        ) {
            let text = before + &"ghp_placeholder/0+=".repeat(count) + &after;
            for made in [in_header(text.as_bytes(), HOLD, value.as_bytes())].into_iter().flatten() {
                prop_assert!(!contains(&made, HOLD));
            }
            let encoded = as_basic(text.as_bytes());
            prop_assert_eq!(in_header(&encoded, HOLD, value.as_bytes()).is_some(), count > 0);
            prop_assert_eq!(is_in_header(&encoded, HOLD), count > 0);
            let made = in_query(&text, HOLD, value.as_bytes());
            prop_assert_eq!(made.is_some(), is_in_query(&text, HOLD));
            if let Some(made) = made {
                prop_assert!(!is_in_query(&made, HOLD), "{}", &*made);
            }
            prop_assert_eq!(&*unescape(&escape(text.as_bytes())), text.as_bytes());
        }

        #[test]
        fn any_bytes_are_looked_through(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in ".{0,60}") {
            let _ = in_header(&bytes, HOLD, b"x");
            let _ = in_header(&[b"Basic ", &bytes[..]].concat(), HOLD, b"x");
            let _ = in_query(&text, HOLD, b"x");
            let _ = is_in_query(&text, HOLD);
        }
    }
}
