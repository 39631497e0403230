//! Host names, and the patterns that rules name them by.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// A host name in one spelling: lower case, without a dot at its end. An address is none.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(Arc<str>);

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("a host name is 1 to {MAX_HOST} characters")]
    Length,
    #[error("a label of a host name is 1 to {MAX_LABEL} characters")]
    Label,
    #[error("a host name has letters, digits, '-' and '_' only; write other letters as punycode (xn--...)")]
    Character,
    #[error("an address is no host name; name it in cidrs")]
    Address,
    #[error(
        "'*' stands for whole labels at the front only, as in *.example.com; for every address write cidrs"
    )]
    Wildcard,
}

impl HostError {
    /// What may stand there instead.
    pub fn allowed(self) -> String {
        format!("a host name such as api.example.com or *.example.com ({self})")
    }
}

impl Host {
    /// Reads a name as people, resolvers and clients write it.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('*') {
            return Err(HostError::Wildcard);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if !text.is_ascii() {
            return Err(HostError::Character);
        }
        if text.is_empty() || text.len() > MAX_HOST {
            return Err(HostError::Length);
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return Err(HostError::Label);
            }
            if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
                return Err(if label.contains(':') { HostError::Address } else { HostError::Character });
            }
        }
        if text.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Address);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A last label that makes programs read the whole as an IPv4 address, `127.1` and `0x7f000001` too.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a rule's `hosts` holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// This name.
    Exact(Host),
    /// Every name of one or more labels below this one, not itself.
    Below(Host),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, HostError> {
        match text.strip_prefix("*.") {
            Some(rest) => Host::parse(rest).map(Self::Below),
            None => Host::parse(text).map(Self::Exact),
        }
    }

    pub fn matches(&self, name: &Host) -> bool {
        match self {
            Self::Exact(host) => host == name,
            Self::Below(host) => {
                name.as_str().strip_suffix(host.as_str()).is_some_and(|front| front.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_has_one_spelling() {
        for (text, name) in [
            ("API.Example.com", "api.example.com"),
            ("example.com.", "example.com"),
            ("_dmarc.example.com", "_dmarc.example.com"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("3com.com", "3com.com"),
            ("1.0.0.127.in-addr.arpa", "1.0.0.127.in-addr.arpa"),
        ] {
            assert_eq!(Host::parse(text).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_its_reason() {
        let long_label = "a".repeat(64);
        let long = format!("{0}.{0}.{0}.{0}", "a".repeat(63));
        for (text, error) in [
            ("", HostError::Length),
            (".", HostError::Length),
            (long.as_str(), HostError::Length),
            ("a..b", HostError::Label),
            ("a.b..", HostError::Label),
            (".a", HostError::Label),
            (long_label.as_str(), HostError::Label),
            ("bücher.example", HostError::Character),
            ("a b", HostError::Character),
            ("a\0b", HostError::Character),
            ("a/b", HostError::Character),
            ("a%2eb", HostError::Character),
            ("127.0.0.1", HostError::Address),
            ("127.1", HostError::Address),
            ("2130706433", HostError::Address),
            ("0x7f000001", HostError::Address),
            ("a.0X", HostError::Address),
            ("::1", HostError::Address),
            ("*", HostError::Wildcard),
            ("a.*.b", HostError::Wildcard),
        ] {
            assert_eq!(Host::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn patterns_match_whole_labels() {
        let matches =
            |pattern: &str, name: &str| Pattern::parse(pattern).unwrap().matches(&Host::parse(name).unwrap());
        assert!(matches("API.github.com.", "api.github.com"));
        assert!(!matches("github.com", "api.github.com"));
        assert!(matches("*.github.com", "api.github.com"));
        assert!(matches("*.github.com", "a.b.github.com"));
        assert!(!matches("*.github.com", "github.com"));
        assert!(!matches("*.github.com", "evilgithub.com"));
        assert!(!matches("*.github.com", "github.com.evil.example"));
        assert!(matches("*.com", "github.com"));
        for text in ["*", "*.", "**.a", "*a.b", "*.*.b", "a.*"] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_name_or_refused_and_a_name_stays_itself(text in ".{0,80}|[a-zA-Z0-9_.*:-]{0,300}") {
            let _ = Pattern::parse(&text);
            if let Ok(host) = Host::parse(&text) {
                prop_assert_eq!(Host::parse(host.as_str()), Ok(host.clone()));
                prop_assert!(host.as_str().parse::<std::net::IpAddr>().is_err());
                prop_assert!(host.as_str().len() <= MAX_HOST);
                prop_assert!(host.as_str().eq_ignore_ascii_case(text.strip_suffix('.').unwrap_or(&text)));
            }
        }
    }
}
