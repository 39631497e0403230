//! `HOST:PORT`, `ADDRESS:PORT`, and URLs of HTTP.

use std::net::{IpAddr, SocketAddr};

use cordium_egress::Host;

/// What a client would connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub text: String,
    pub target: Target,
    pub port: u16,
    /// The path of a URL, without the query.
    pub path: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Host(Host),
    Address(IpAddr),
}

pub fn parse(text: &str) -> Result<Destination, String> {
    let bad = || {
        format!(
            "was {text:?}; expected HOST:PORT, ADDRESS:PORT, [ADDRESS]:PORT with a port from 1 to 65535, or a URL such as \
             https://HOST/PATH"
        )
    };
    let (place, path) = match url(text) {
        Some((place, path)) => (place, Some(path)),
        None => (text.to_owned(), None),
    };
    let whole = |target, port| Destination { text: text.to_owned(), target, port, path: path.clone() };
    if let Ok(address) = place.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(bad())
        } else {
            Ok(whole(Target::Address(address.ip()), address.port()))
        };
    }
    let (host, port) = place.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    let host = Host::parse(host).map_err(|error| format!("was {text:?}: {error}"))?;
    Ok(whole(Target::Host(host), port))
}

/// `HOST:PORT` and the path of a URL.
fn url(text: &str) -> Option<(String, String)> {
    let (scheme, rest) = text.split_once("://")?;
    let port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (place, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    let path = if path.is_empty() { "/" } else { path };
    // A port stands behind the last bracket of an address.
    let has_port = place.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
    let place = if has_port { place.to_owned() } else { format!("{place}:{port}") };
    Some((place, path.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hosts_and_addresses() {
        let target = |text: &str| parse(text).map(|destination| (destination.target, destination.port));
        let host = Host::parse("api.example.com").unwrap();
        assert_eq!(target("API.example.com.:443"), Ok((Target::Host(host), 443)));
        assert_eq!(target("10.0.0.1:22"), Ok((Target::Address("10.0.0.1".parse().unwrap()), 22)));
        assert_eq!(target("[fd00::1]:22"), Ok((Target::Address("fd00::1".parse().unwrap()), 22)));
        let url = |text: &str| parse(text).map(|found| (found.port, found.path.unwrap_or_default()));
        for (text, port, path) in [
            ("https://api.example.com", 443, "/"),
            ("HTTP://api.example.com/a/b?c=/d#e", 80, "/a/b"),
            ("https://api.example.com:8443?x", 8443, "/"),
            ("http://10.0.0.1/x//y", 80, "/x//y"),
            ("https://[fd00::1]/x", 443, "/x"),
            ("https://[fd00::1]:22/", 22, "/"),
        ] {
            assert_eq!(url(text), Ok((port, path.to_owned())), "{text}");
        }
        for bad in [
            "ftp://a.example/",
            "https://",
            "https:///x",
            "https://user@a.example/",
            "https://a.example:0/",
            "",
            "a",
            "a:",
            "a:0",
            "a:65536",
            ":80",
            "10.0.0.1:0",
            "fd00::1:22",
            "10.0.0.300:1",
            "*.a:1",
            "a b:1",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
