//! One spelling for a path, so that a rule or a binding and the server cannot read it in two ways.
//!
//! What servers are known to read differently (dot segments, empty segments, encoded slashes, `;`) is not resolved but refused.

/// Decodes what needs no percent sign, writes the rest of the escapes in capital letters, and refuses what is ambiguous.
pub fn normalise(path: &str) -> Result<String, &'static str> {
    if !path.starts_with('/') {
        return Err("the path does not begin with '/'");
    }
    let mut decoded = Vec::with_capacity(path.len());
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next(), bytes.next()];
                let byte = escaped(digits).ok_or("the path has a percent sign without two digits")?;
                match byte {
                    b'/' | b'\\' | b';' | b'%' | b'?' | b'#' => {
                        return Err("the path has an escape that hides its structure");
                    }
                    0..=0x1f | 0x7f => return Err("the path has a control character"),
                    _ if is_unreserved(byte) => normal.push(char::from(byte)),
                    _ => normal.push_str(&format!("%{byte:02X}")),
                }
                decoded.push(byte);
            }
            b'\\' => return Err("the path has a backslash"),
            b';' => return Err("the path has a ';'"),
            b'?' | b'#' => return Err("the path has a query"),
            0x21..=0x7e => {
                normal.push(char::from(byte));
                decoded.push(byte);
            }
            _ => return Err("the path has a character that must be escaped"),
        }
    }
    // Overlong forms, which some servers read as '/' or '.', are no UTF-8.
    std::str::from_utf8(&decoded).map_err(|_| "the path is not UTF-8")?;
    let mut segments = normal[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err("the path has '.' or '..' as a segment"),
            "" if segments.peek().is_some() => return Err("the path has an empty segment"),
            _ => {}
        }
    }
    Ok(normal)
}

/// Whether a path begins with these whole segments. Both are normal.
pub fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The byte that two digits after a percent sign stand for.
pub fn escaped(digits: [Option<u8>; 2]) -> Option<u8> {
    let digit =
        |digit: Option<u8>| char::from(digit?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(digits[0])? << 4 | digit(digits[1])?)
}

/// RFC 3986 §2.3.
pub fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/%61/%7eb", "/a/~b"),
            ("/a%20b%c3%a9", "/a%20b%C3%A9"),
            ("/a@b:c,d+e=f!", "/a@b:c,d+e=f!"),
            ("/...", "/..."),
            ("/.git", "/.git"),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/%2E./b",
            "/a/.%2e",
            "/a%2fb",
            "/a%2Fb",
            "/a\\b",
            "/a%5cb",
            "/a;x",
            "/a%3bx",
            "/..;/b",
            "/%252e%252e/",
            "/a%00",
            "/a%0ab",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%+1",
            "/\u{e9}",
            "/a b",
            "/a\0",
            "/%c0%af",
            "/%c0%ae%c0%ae/",
            "/%e0%80%af",
            "/%ff",
            "/a%3fb",
            "/a%23b",
            "/a?b",
            "/a#b",
        ] {
            assert!(normalise(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        for prefix in ["/repos/acme", "/repos/acme/"] {
            assert!(is_below("/repos/acme", prefix) && is_below("/repos/acme/x", prefix));
            assert!(
                !is_below("/repos/acmeevil", prefix) && !is_below("/repos", prefix) && !is_below("/", prefix)
            );
        }
        assert!(is_below("/", "/") && is_below("/x", "/"));
    }

    proptest! {
        #[test]
        fn any_text_is_normal_or_refused_and_what_is_normal_stays(path in "/?[a-z./%;\\\\0-9A-F\u{0}-\u{ff}]{0,40}") {
            if let Ok(normal) = normalise(&path) {
                prop_assert_eq!(normalise(&normal), Ok(normal.clone()));
                prop_assert!(!normal.contains("//") && !normal.split('/').any(|segment| segment == ".." || segment == "."));
            }
        }
    }
}
