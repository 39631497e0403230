//! `HOST:PORT` and `ADDRESS:PORT`.

use std::net::{IpAddr, SocketAddr};

use cordium_egress::Host;

/// What a client would connect to.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    pub text: String,
    pub target: Target,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    Host(Host),
    Address(IpAddr),
}

pub fn parse(text: &str) -> Result<Destination, String> {
    let bad = || {
        format!(
            "was {text:?}; expected HOST:PORT, ADDRESS:PORT or [ADDRESS]:PORT with a port from 1 to 65535"
        )
    };
    let whole = |target, port| Destination { text: text.to_owned(), target, port };
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(bad())
        } else {
            Ok(whole(Target::Address(address.ip()), address.port()))
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    let host = Host::parse(host).map_err(|error| format!("was {text:?}: {error}"))?;
    Ok(whole(Target::Host(host), port))
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
        for bad in [
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
