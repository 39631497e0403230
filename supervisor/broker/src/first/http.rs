//! The host of an HTTP/1 request (RFC 9112 §3), read more strictly than servers do: whatever two readers could understand in two
//! ways is refused.

use super::Heard;

/// What the head of a request says about where it goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// As the client spells it, without the port.
    pub host: String,
}

/// Methods that make a line without a version a request of HTTP/0.9.
const OLD_METHODS: [&[u8]; 3] = [b"GET", b"HEAD", b"POST"];

pub(super) fn hear(bytes: &[u8]) -> Heard {
    let start = skip_blank_lines(bytes);
    let bytes = &bytes[start..];
    let line = match first_line(bytes) {
        Line::Whole(line) => line,
        Line::Begun => return Heard::Incomplete,
        Line::NoText => return Heard::Other,
    };
    match kind(line) {
        Kind::Other => return Heard::Other,
        Kind::PriorKnowledge => {
            return Heard::Refused("HTTP/2 without TLS names its hosts where they are not checked");
        }
        Kind::Request => {}
    }
    if start > 0 {
        return Heard::Refused("the HTTP request begins with an empty line");
    }
    let Some(end) = end_of_head(bytes) else { return Heard::Incomplete };
    match read_head(&bytes[..end]) {
        Ok(head) => Heard::Http(head),
        Err(reason) => Heard::Refused(reason),
    }
}

pub(super) fn is_request(bytes: &[u8]) -> bool {
    let bytes = &bytes[skip_blank_lines(bytes)..];
    matches!(first_line(bytes), Line::Whole(line) if matches!(kind(line), Kind::Request))
}

/// Servers skip them before a request.
fn skip_blank_lines(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()
}

enum Line<'a> {
    /// Without its line feed.
    Whole(&'a [u8]),
    Begun,
    /// What comes before the first space is no word.
    NoText,
}

fn first_line(bytes: &[u8]) -> Line<'_> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let word = line.iter().take_while(|byte| is_token(**byte)).count();
    match line.get(word) {
        // A word alone, or one that goes on.
        None => {}
        Some(b' ' | b'\t' | b'\r') if word > 0 => {}
        // Some servers take white space before the method.
        Some(b' ' | b'\t' | 0x0b | 0x0c) => {}
        Some(_) => return Line::NoText,
    }
    if line.len() < bytes.len() { Line::Whole(line) } else { Line::Begun }
}

enum Kind {
    Request,
    PriorKnowledge,
    Other,
}

fn kind(line: &[u8]) -> Kind {
    let mut words =
        line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c)).filter(|word| !word.is_empty());
    let Some(method) = words.next() else { return Kind::Other };
    let rest: Vec<&[u8]> = words.collect();
    let versions = |word: &&[u8]| word.len() >= 5 && word[..5].eq_ignore_ascii_case(b"HTTP/");
    match rest.last() {
        Some(last) if rest.len() > 1 && versions(last) => {
            if method == b"PRI" {
                Kind::PriorKnowledge
            } else {
                Kind::Request
            }
        }
        Some(_) if rest.iter().any(versions) => Kind::Request,
        Some(_) if OLD_METHODS.contains(&method) => Kind::Request,
        _ => Kind::Other,
    }
}

/// Where the empty line ends, with line ends of either kind: a bare line feed is refused later, by its own name.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let mut line_is_empty = false;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if line_is_empty => return Some(at + 1),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    None
}

fn read_head(head: &[u8]) -> Result<Head, &'static str> {
    let text = std::str::from_utf8(head).map_err(|_| "the HTTP head is not text")?;
    let text = text.strip_suffix("\r\n\r\n").ok_or("the HTTP head has a line end without carriage return")?;
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let lines: Vec<&str> = lines.collect();
    let is_plain = |line: &str| !line.chars().any(|c| c.is_ascii_control() && c != '\t');
    if !is_plain(request) || !lines.iter().all(|line| is_plain(line)) {
        return Err("the HTTP head has a control character or a bare line end");
    }
    let mut hosts = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("the HTTP head has a line without a colon")?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err("the HTTP head has a folded line or a field name that is none");
        }
        if name.eq_ignore_ascii_case("host") {
            hosts.push(value.trim_matches([' ', '\t']));
        }
    }
    let [host] = hosts.as_slice() else {
        return Err(if hosts.is_empty() {
            "the HTTP request has no Host"
        } else {
            "the HTTP request has more than one Host"
        });
    };
    let host = authority(host).ok_or("the HTTP request's Host is malformed")?;
    check_target(request, &host)?;
    Ok(Head { host: host.name.to_owned() })
}

/// The request line, and that its target, where that names a host too, names the same.
fn check_target(request: &str, host: &Authority<'_>) -> Result<(), &'static str> {
    let words: Vec<&str> = request.split(' ').collect();
    let [method, target, version] = words.as_slice() else {
        return Err("the HTTP request line is not a method, a target and a version");
    };
    if !matches!(*version, "HTTP/1.1" | "HTTP/1.0") {
        return Err("the HTTP version is neither 1.0 nor 1.1");
    }
    if method.is_empty() || !method.bytes().all(is_token) {
        return Err("the HTTP method is malformed");
    }
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err("HTTP CONNECT leads to a host that is not checked");
    }
    if target.starts_with('/') || *target == "*" {
        return Ok(());
    }
    let malformed = "the HTTP target is malformed";
    let (scheme, rest) = target.split_once("://").ok_or(malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(malformed);
    }
    let named = rest.split(['/', '?', '#']).next().and_then(authority).ok_or(malformed)?;
    if named.name.eq_ignore_ascii_case(host.name) && named.port == host.port {
        Ok(())
    } else {
        Err("the HTTP target and its Host differ")
    }
}

struct Authority<'a> {
    name: &'a str,
    port: Option<u16>,
}

/// `NAME[:PORT]`; an address in brackets is none of the names that a rule can open.
fn authority(text: &str) -> Option<Authority<'_>> {
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => {
            let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
            (name, Some(port.parse().ok().filter(|_| digits)?))
        }
        None => (text, None),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!name.is_empty() && name.bytes().all(plain)).then_some(Authority { name, port })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
