//! What a workspace's services may be called and where they may lead. Data, and what is wrong with it.
//!
//! A service is a name inside the workspace behind which the broker logs in to a server elsewhere.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::binding::BindingError;
use crate::{Host, protected};

/// Services of one workspace.
pub const MAX_SERVICES: usize = 32;
/// Keys by which the server of one service may be known.
pub const MAX_HOST_KEYS: usize = 8;
/// The longest key of a server, as one line.
pub const MAX_HOST_KEY: usize = 4096;
/// What PostgreSQL itself takes.
const MAX_ACCOUNT: usize = 63;
/// The longest password, in bytes: as long as PostgreSQL's own programs read.
const MAX_PASSWORD: usize = 1024;
const MAX_KEY: usize = 16 * 1024;
const MAX_NAME: usize = 63;
/// Names of services are below this one.
pub const DOMAIN: &str = "cordium.internal";
/// The node itself, as far as it is open to workspaces: the one name below [`DOMAIN`] that may be an upstream.
const NODE: &str = "host.cordium.internal";
/// The first address that a service has inside. The whole /26 is the broker's: nothing else can be there.
const FIRST: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 65);

/// What is spoken with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Postgresql,
    Ssh,
}

impl Kind {
    pub fn port(self) -> u16 {
        match self {
            Self::Postgresql => 5432,
            Self::Ssh => 22,
        }
    }
}

/// A service, but for its credential.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub name: &'a str,
    pub kind: Kind,
    /// A name, or an address.
    pub upstream_host: &'a str,
    pub upstream_port: u16,
    pub local_host: &'a str,
    pub local_port: u16,
    pub user: &'a str,
    pub database: Option<&'a str>,
    /// As in a file of known hosts, without the host.
    pub host_keys: &'a [String],
}

/// Where a service leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The node's loopback, on ports that are open to workspaces.
    Node,
    Name(Host),
    Address(IpAddr),
}

impl Upstream {
    /// Reads a name or an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = text.parse::<IpAddr>() {
            return match protected(address) {
                Some(entry) => Err(format!("no workspace reaches this address: {}", entry.reason)),
                None => Ok(Self::Address(address)),
            };
        }
        match Host::parse(text) {
            Ok(host) if host.as_str() == NODE => Ok(Self::Node),
            Ok(host) if is_below(&host) || host.as_str() == "localhost" => {
                Err("this name exists inside workspaces only; the node itself is host.cordium.internal"
                    .into())
            }
            Ok(host) => Ok(Self::Name(host)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The name that a service has if its author says none.
pub fn local_host(name: &str) -> String {
    format!("{name}.{DOMAIN}")
}

/// The address of each of these local names, in the order in which they first stand there.
pub fn addresses<'a>(hosts: impl IntoIterator<Item = &'a Host>) -> Vec<Ipv4Addr> {
    let mut known: Vec<&Host> = Vec::new();
    let place = |host: &'a Host| {
        known.iter().position(|other| *other == host).unwrap_or_else(|| {
            known.push(host);
            known.len() - 1
        })
    };
    let places: Vec<usize> = hosts.into_iter().map(place).collect();
    let address = |place: usize| {
        Ipv4Addr::from(u32::from(FIRST).saturating_add(u32::try_from(place).unwrap_or(u32::MAX)))
    };
    places.into_iter().map(address).collect()
}

/// What is wrong with the services of one workspace, and with which.
pub fn check_all(shapes: &[Shape<'_>]) -> Result<(), (usize, BindingError)> {
    let (mut names, mut places) = (BTreeSet::new(), BTreeSet::new());
    for (index, shape) in shapes.iter().enumerate() {
        shape.check().map_err(|error| (index, error))?;
        if !names.insert(shape.name) {
            return Err((
                index,
                BindingError::new("name", "another service has this name; allowed: each once"),
            ));
        }
        if !places.insert((shape.local_host.to_ascii_lowercase(), shape.local_port)) {
            let problem = "another service has this name and port; allowed: each once";
            return Err((index, BindingError::new("local.port", problem)));
        }
    }
    Ok(())
}

impl Shape<'_> {
    fn check(&self) -> Result<(), BindingError> {
        let wrong = |path: &str, problem: String| Err(BindingError::new(path, problem));
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=MAX_NAME).contains(&self.name.len())
            || !self.name.bytes().all(label)
            || self.name.starts_with('-')
            || self.name.ends_with('-')
        {
            let problem =
                "is no name; allowed: 1 to 63 lower-case letters, digits and '-', no '-' at the ends";
            return wrong("name", problem.into());
        }
        if let Err(problem) = Upstream::parse(self.upstream_host) {
            return wrong(
                "upstream.host",
                format!("{problem}; allowed: a name such as db.example.com, or an address"),
            );
        }
        for (path, port) in [("upstream.port", self.upstream_port), ("local.port", self.local_port)] {
            if port == 0 {
                return wrong(path, "was 0; allowed: 1 to 65535".into());
            }
        }
        if self.local_port == 53 {
            return wrong("local.port", "was 53, which is the resolver's; allowed: any other".into());
        }
        match Host::parse(self.local_host) {
            Ok(host) if is_below(&host) && host.as_str() != NODE => {}
            _ => {
                let problem = "is no name of a service; allowed: a name below cordium.internal, other than host.cordium.internal";
                return wrong("local.host", problem.into());
            }
        }
        let protocol = match self.kind {
            Kind::Postgresql => "protocol.postgresql",
            Kind::Ssh => "protocol.ssh",
        };
        account(&format!("{protocol}.user"), self.user)?;
        if let Some(database) = self.database {
            account(&format!("{protocol}.database"), database)?;
        }
        if self.kind == Kind::Ssh {
            host_keys(&format!("{protocol}.hostKeys"), self.host_keys)
        } else {
            Ok(())
        }
    }
}

fn account(path: &str, text: &str) -> Result<(), BindingError> {
    if (1..=MAX_ACCOUNT).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(BindingError::new(
        path,
        "is no name of an account; allowed: 1 to 63 bytes without control characters",
    ))
}

/// Only that each is one: the broker reads them.
fn host_keys(path: &str, keys: &[String]) -> Result<(), BindingError> {
    if !(1..=MAX_HOST_KEYS).contains(&keys.len()) {
        let problem = format!(
            "has a length of {}; allowed: 1 to {MAX_HOST_KEYS} keys of the server, as ssh-keyscan prints them, without the host",
            keys.len()
        );
        return Err(BindingError::new(path, problem));
    }
    for (index, key) in keys.iter().enumerate() {
        let mut words = key.split_ascii_whitespace();
        let known = words.next().is_some_and(|kind| HOST_KEY_KINDS.contains(&kind));
        let data = words.next().is_some_and(|data| data.starts_with("AAAA"));
        if key.len() > MAX_HOST_KEY || key.contains(['\n', '\r']) || !known || !data {
            let problem = format!(
                "is no public key of a server; allowed: one line such as ssh-ed25519 AAAAC3Nz..., of the kinds {}",
                HOST_KEY_KINDS.join(", ")
            );
            return Err(BindingError::new(format!("{path}[{index}]"), problem));
        }
    }
    Ok(())
}

const HOST_KEY_KINDS: [&str; 5] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"];

/// What is wrong with a credential, if anything, without a word of it.
pub fn check_secret(kind: Kind, value: &[u8]) -> Result<(), BindingError> {
    let wrong = |problem: &str| Err(BindingError::new("fromSecret", problem));
    match kind {
        Kind::Postgresql if !(1..=MAX_PASSWORD).contains(&value.len()) => {
            wrong("is no password; allowed: 1 to 1,024 bytes")
        }
        Kind::Postgresql if value.contains(&0) || std::str::from_utf8(value).is_err() => {
            wrong("is no password; allowed: text without NUL")
        }
        Kind::Ssh if value.len() > MAX_KEY || !value.trim_ascii_start().starts_with(b"-----BEGIN ") => wrong(
            "is no private key; allowed: one in the format of OpenSSH, without a passphrase, at most 16,384 bytes",
        ),
        Kind::Postgresql | Kind::Ssh => Ok(()),
    }
}

fn is_below(host: &Host) -> bool {
    host.as_str().strip_suffix(DOMAIN).is_some_and(|front| front.ends_with('.')) || host.as_str() == DOMAIN
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shape() -> Shape<'static> {
        Shape {
            name: "db",
            kind: Kind::Postgresql,
            upstream_host: "db.corp.example",
            upstream_port: 5432,
            local_host: "db.cordium.internal",
            local_port: 5432,
            user: "app",
            database: Some("app"),
            host_keys: &[],
        }
    }

    fn wrong(spoil: impl Fn(&mut Shape<'static>)) -> String {
        let mut spoiled = shape();
        spoil(&mut spoiled);
        spoiled.check().unwrap_err().path
    }

    #[test]
    fn each_bad_field_is_named() {
        assert_eq!(shape().check(), Ok(()));
        for name in ["", "-a", "a-", "A", "a.b", "a b"] {
            assert_eq!(wrong(|s| s.name = name), "name", "{name}");
        }
        for host in [
            "",
            "*.example",
            "127.0.0.1",
            "169.254.169.254",
            "::1",
            "[::ffff:127.0.0.1]",
            "localhost",
            "x.cordium.internal",
            "100.127.255.70",
            "127.1",
        ] {
            assert_eq!(wrong(|s| s.upstream_host = host), "upstream.host", "{host}");
        }
        assert_eq!(wrong(|s| s.upstream_port = 0), "upstream.port");
        assert_eq!(wrong(|s| s.local_port = 0), "local.port");
        assert_eq!(wrong(|s| s.local_port = 53), "local.port");
        for host in [
            "",
            "github.com",
            "host.cordium.internal",
            "xcordium.internal",
            "*.cordium.internal",
            "cordium.internal.example",
        ] {
            assert_eq!(wrong(|s| s.local_host = host), "local.host", "{host}");
        }
        assert_eq!(wrong(|s| s.user = ""), "protocol.postgresql.user");
        assert_eq!(wrong(|s| s.user = "a\0b"), "protocol.postgresql.user");
        assert_eq!(wrong(|s| s.database = Some("")), "protocol.postgresql.database");
        assert_eq!(wrong(|s| s.kind = Kind::Ssh), "protocol.ssh.hostKeys");
        let keys = vec![
            vec!["ssh-dss AAAA".to_owned()],
            vec!["ssh-ed25519".into()],
            vec!["ssh-ed25519 AAAA\nx".into()],
        ];
        for keys in keys {
            let shape = Shape { kind: Kind::Ssh, database: None, host_keys: &keys, ..shape() };
            assert_eq!(shape.check().unwrap_err().path, "protocol.ssh.hostKeys[0]", "{keys:?}");
        }
    }

    #[test]
    fn names_and_places_are_taken_once() {
        let other = Shape { name: "other", local_host: "other.cordium.internal", ..shape() };
        assert_eq!(check_all(&[shape(), other]), Ok(()));
        let twice = check_all(&[shape(), shape()]).unwrap_err();
        assert_eq!((twice.0, twice.1.path.as_str()), (1, "name"));
        let same = Shape { name: "other", local_host: "DB.cordium.internal", ..shape() };
        let twice = check_all(&[shape(), same]).unwrap_err();
        assert_eq!((twice.0, twice.1.path.as_str()), (1, "local.port"));
        assert_eq!(check_all(&[shape(), Shape { local_port: 1, ..same }]), Ok(()));
    }

    #[test]
    fn one_name_has_one_address_and_all_are_protected() {
        let hosts: Vec<Host> = ["a.x", "b.x", "a.x"].iter().map(|text| Host::parse(text).unwrap()).collect();
        let addresses = addresses(&hosts);
        assert_eq!(addresses[0], addresses[2]);
        assert_ne!(addresses[0], addresses[1]);
        let last = Ipv4Addr::from(u32::from(FIRST) + u32::try_from(MAX_SERVICES).unwrap() - 1);
        for address in [FIRST, last] {
            assert_eq!(protected(address.into()).unwrap().rule, "services");
        }
    }

    #[test]
    fn upstreams_are_names_or_addresses_that_are_not_protected() {
        assert_eq!(Upstream::parse("host.cordium.internal"), Ok(Upstream::Node));
        assert_eq!(Upstream::parse("10.0.0.5"), Ok(Upstream::Address([10, 0, 0, 5].into())));
        assert!(matches!(Upstream::parse("[2001:db8::1]"), Ok(Upstream::Address(IpAddr::V6(_)))));
        assert_eq!(Upstream::parse("Db.Example."), Ok(Upstream::Name(Host::parse("db.example").unwrap())));
    }

    #[test]
    fn a_secret_is_a_password_or_a_key() {
        assert_eq!(check_secret(Kind::Postgresql, "pä ss".as_bytes()), Ok(()));
        for value in [&b""[..], b"a\0", b"\xff", &[b'x'; 1025]] {
            assert!(check_secret(Kind::Postgresql, value).is_err());
        }
        assert_eq!(check_secret(Kind::Ssh, b"-----BEGIN OPENSSH PRIVATE KEY-----\n"), Ok(()));
        assert!(check_secret(Kind::Ssh, b"hunter2").is_err());
    }
}
