//! The server name of a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), which may be split over several records.

use super::Heard;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Most plain text of one record.
const RECORD: usize = 1 << 14;

const NO_HELLO: Heard = Heard::Refused("TLS does not begin with a ClientHello");
const BROKEN: Heard = Heard::Refused("the TLS ClientHello is malformed");
const NO_NAME: Heard = Heard::Refused("the TLS ClientHello names no server (SNI)");
const TWO_NAMES: Heard = Heard::Refused("the TLS ClientHello names more than one server");

pub(super) fn hear(bytes: &[u8]) -> Heard {
    let (message, whole) = match handshake(bytes) {
        Ok(read) => read,
        Err(heard) => return heard,
    };
    match message.first() {
        None => return Heard::Incomplete,
        Some(&CLIENT_HELLO) => {}
        Some(_) => return NO_HELLO,
    }
    let mut rest = Bytes(&message[1..]);
    let Some(length) = rest.take(3) else { return Heard::Incomplete };
    let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    let Some(hello) = rest.take(length) else { return Heard::Incomplete };
    // Early data follows in records of its own, never in the ClientHello's.
    if !whole || !rest.0.is_empty() {
        return BROKEN;
    }
    server_name(hello)
}

/// A ClientHello in the format of SSL 2, which servers of today may still read: it has no room for a name.
pub(super) fn hear_old(bytes: &[u8]) -> Heard {
    match bytes {
        [_, _, CLIENT_HELLO, 0 | 2 | 3, ..] => NO_NAME,
        [_] | [_, _] | [_, _, CLIENT_HELLO] => Heard::Incomplete,
        _ => Heard::Other,
    }
}

/// The plain text of the handshake records up to the end of the first message, and whether the last of them is whole.
fn handshake(bytes: &[u8]) -> Result<(Vec<u8>, bool), Heard> {
    let mut message = Vec::new();
    let mut rest = bytes;
    while let [kind, more @ ..] = rest {
        if *kind != HANDSHAKE || more.first().is_some_and(|major| *major != 3) {
            return Err(NO_HELLO);
        }
        let [_, _, high, low, body @ ..] = more else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 || length > RECORD {
            return Err(BROKEN);
        }
        let here = length.min(body.len());
        message.extend_from_slice(&body[..here]);
        if here < length {
            return Ok((message, false));
        }
        if is_whole(&message) {
            return Ok((message, true));
        }
        rest = &body[here..];
    }
    Ok((message, true))
}

fn is_whole(message: &[u8]) -> bool {
    let [_, a, b, c, body @ ..] = message else { return false };
    body.len() >= (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c))
}

/// The one host name that the body of a ClientHello asks for.
fn server_name(hello: &[u8]) -> Heard {
    let Some(extensions) = extensions(hello) else { return BROKEN };
    // Without extensions, as before TLS 1.0.
    let Some(mut extensions) = extensions else { return NO_NAME };
    let mut found = None;
    while !extensions.0.is_empty() {
        let (Some(kind), Some(body)) = (extensions.number(), extensions.vector16()) else { return BROKEN };
        if kind != SERVER_NAME {
            continue;
        }
        if found.is_some() {
            return TWO_NAMES;
        }
        found = match one_name(body) {
            Ok(name) => Some(name),
            Err(heard) => return heard,
        };
    }
    found.map_or(NO_NAME, Heard::Tls)
}

/// What follows the fixed part; the inner nothing is a hello that ends before its extensions.
fn extensions(hello: &[u8]) -> Option<Option<Bytes<'_>>> {
    let mut rest = Bytes(hello);
    let version = rest.take(2)?;
    rest.take(32)?;
    let session = rest.vector8()?;
    let suites = rest.vector16()?;
    let compressions = rest.vector8()?;
    let sane = version[0] == 3
        && session.len() <= 32
        && !suites.is_empty()
        && suites.len().is_multiple_of(2)
        && !compressions.is_empty();
    if !sane {
        return None;
    }
    if rest.0.is_empty() {
        return Some(None);
    }
    let extensions = rest.vector16()?;
    rest.0.is_empty().then_some(Some(Bytes(extensions)))
}

fn one_name(extension: &[u8]) -> Result<String, Heard> {
    let mut rest = Bytes(extension);
    let (Some(list), true) = (rest.vector16(), rest.0.is_empty()) else { return Err(BROKEN) };
    let mut list = Bytes(list);
    let (Some(kind), Some(name)) = (list.take(1), list.vector16()) else { return Err(BROKEN) };
    if !list.0.is_empty() {
        return Err(TWO_NAMES);
    }
    if kind[0] != HOST_NAME || name.is_empty() || !name.is_ascii() {
        return Err(BROKEN);
    }
    String::from_utf8(name.to_vec()).map_err(|_| BROKEN)
}

/// A reader that never reads past the end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        let bytes = self.take(2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?);
        self.take(length)
    }
}
