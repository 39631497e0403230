//! As much of DER as certificates and Java's stores need: elements of definite length, read in place and written.

pub const BOOLEAN: u8 = 0x01;
pub const INTEGER: u8 = 0x02;
pub const OCTET_STRING: u8 = 0x04;
pub const OID: u8 = 0x06;
pub const BMP_STRING: u8 = 0x1e;
pub const SEQUENCE: u8 = 0x30;
pub const SET: u8 = 0x31;
/// `[0] EXPLICIT`, and so on.
pub const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not well-formed DER")]
pub struct Malformed;

#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub tag: u8,
    pub content: &'a [u8],
    /// With tag and length.
    pub whole: &'a [u8],
}

/// Takes the first element off `rest`.
pub fn take<'a>(rest: &mut &'a [u8]) -> Result<Element<'a>, Malformed> {
    let all = *rest;
    let (&tag, after) = all.split_first().ok_or(Malformed)?;
    let (&first, after) = after.split_first().ok_or(Malformed)?;
    let (length, after) = match first {
        0..=0x7f => (usize::from(first), after),
        0x81..=0x84 => {
            let (bytes, after) = after.split_at_checked(usize::from(first & 0x7f)).ok_or(Malformed)?;
            let length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            if length < 0x80 || bytes.starts_with(&[0]) {
                return Err(Malformed);
            }
            (length, after)
        }
        _ => return Err(Malformed),
    };
    // A tag of several bytes is in nothing that is read here.
    if tag & 0x1f == 0x1f {
        return Err(Malformed);
    }
    let (content, after) = after.split_at_checked(length).ok_or(Malformed)?;
    *rest = after;
    Ok(Element { tag, content, whole: &all[..all.len() - after.len()] })
}

/// The content of the first element, which must be a `tag`.
pub fn take_a<'a>(rest: &mut &'a [u8], tag: u8) -> Result<&'a [u8], Malformed> {
    let element = take(rest)?;
    if element.tag == tag { Ok(element.content) } else { Err(Malformed) }
}

/// The content of the first element if it is a `tag`; else nothing is taken.
pub fn take_optional<'a>(rest: &mut &'a [u8], tag: u8) -> Result<Option<&'a [u8]>, Malformed> {
    if rest.first() == Some(&tag) { take(rest).map(|element| Some(element.content)) } else { Ok(None) }
}

/// The content of the only element.
pub fn only(mut all: &[u8], tag: u8) -> Result<&[u8], Malformed> {
    let content = take_a(&mut all, tag)?;
    if all.is_empty() { Ok(content) } else { Err(Malformed) }
}

pub fn encode(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let mut all = vec![tag];
    if content.len() < 0x80 {
        all.extend_from_slice(&length[length.len() - 1..]);
    } else {
        let zeros = length.iter().take_while(|byte| **byte == 0).count();
        let length = &length[zeros..];
        all.extend(u8::try_from(length.len()).map(|count| 0x80 | count));
        all.extend_from_slice(length);
    }
    all.extend_from_slice(content);
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            let written = encode(OCTET_STRING, &content);
            assert_eq!(only(&written, OCTET_STRING), Ok(content.as_slice()), "{length}");
            assert_eq!(take(&mut written.as_slice()).unwrap().whole, written);
            assert_eq!(only(&written, SEQUENCE), Err(Malformed));
            assert_eq!(only(&written[..written.len() - 1], OCTET_STRING), Err(Malformed), "cut short");
        }
    }

    #[test]
    fn lengths_that_der_does_not_have_are_refused() {
        for bad in [
            &[4, 0x80, 0, 0][..],
            &[4, 0x81, 1, 0],
            &[4, 0x82, 0, 0x80],
            &[4, 0x85, 0, 0, 0, 0, 1, 0],
            &[4, 0xff],
            &[4, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x1f, 1, 0],
            &[4],
            &[],
        ] {
            assert!(take(&mut &*bad).is_err(), "{bad:?}");
        }
    }
}
