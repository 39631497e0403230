//! What the keeper and the broker say to each other: bounded JSON messages with descriptors along, each with an answer.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Version of the registration message. A broker that outlived an upgrade refuses what it does not know.
pub const PROTOCOL_VERSION: u32 = 5;

/// Longest message in either direction.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024;
/// TCP listener, DNS over UDP, DNS over TCP, other datagrams, the memory file of policy and credentials, the raw socket for IPv4 and,
/// where the kernel has it, for IPv6: in this order.
pub(crate) const DESCRIPTORS: std::ops::RangeInclusive<usize> = 6..=7;
const MAX_NAME: usize = 128;
const MAX_HOST_PORTS: usize = 256;

/// A workspace's entry at the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Registration {
    /// The workspace's uid: names it in log lines.
    pub workspace: String,
    /// The run's id, for the audit log.
    #[serde(default)]
    pub run: String,
    pub gateway_v4: Ipv4Addr,
    /// Ports of the node's 127.0.0.1 that the workspace reaches as `host.cordium.internal:PORT`.
    #[serde(default)]
    pub host_ports: Vec<u16>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub version: u32,
    pub registration: Registration,
}

/// What a keeper says on the connection of a living registration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) enum Update {
    /// The policy and credentials in the memory file that comes along replace those that hold.
    SetPolicy,
}

/// Read before the rest, so that another version gets a clear answer instead of a parse error.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    Ok,
    Error(String),
}

impl Hello {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Registration, String> {
        let Version { version } = serde_json::from_slice(bytes)
            .map_err(|error| format!("registration is not understood: {error}"))?;
        if version != PROTOCOL_VERSION {
            return Err(format!(
                "protocol version {version} is not spoken here; this broker speaks {PROTOCOL_VERSION}"
            ));
        }
        let hello: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("registration is not understood: {error}"))?;
        hello.registration.check()?;
        Ok(hello.registration)
    }
}

impl Registration {
    /// Bounds that hold on both sides of the socket.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = &self.workspace;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
            return Err(format!("workspace is not 1 to {MAX_NAME} letters, digits, '-', '_' or '.'"));
        }
        if self.run.len() > MAX_NAME || !self.run.chars().all(plain) {
            return Err(format!("run is not up to {MAX_NAME} letters, digits, '-', '_' or '.'"));
        }
        if self.host_ports.len() > MAX_HOST_PORTS {
            return Err(format!("hostPorts has {} entries; at most {MAX_HOST_PORTS}", self.host_ports.len()));
        }
        if self.host_ports.contains(&0) {
            return Err("hostPorts contains 0; ports are 1 to 65535".into());
        }
        let gateway = self.gateway_v4;
        if gateway.is_unspecified()
            || gateway.is_loopback()
            || gateway.is_multicast()
            || gateway.is_broadcast()
        {
            return Err(format!("gatewayV4 {gateway} is not a host address"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn registration() -> Registration {
        let (workspace, run) = ("ws-1".into(), "run-1".into());
        Registration { workspace, run, gateway_v4: crate::GATEWAY_V4, host_ports: vec![8080] }
    }

    fn parse(registration: Registration, version: u32) -> Result<Registration, String> {
        Hello::parse(&serde_json::to_vec(&Hello { version, registration }).unwrap())
    }

    #[test]
    fn a_registration_survives_the_wire() {
        assert_eq!(parse(registration(), PROTOCOL_VERSION), Ok(registration()));
    }

    #[test]
    fn another_version_is_refused_by_name_even_if_its_fields_are_unknown() {
        let error = Hello::parse(br#"{"version":99,"somethingNew":true}"#).unwrap_err();
        assert!(error.contains("version 99") && error.contains('5'), "{error}");
    }

    #[test]
    fn nonsense_and_unknown_fields_are_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"version":5}"#,
            r#"{"version":5,"registration":{"workspace":"a","gatewayV4":"100.127.255.253","x":1}}"#,
            r#"{"version":5,"registration":{"workspace":"a","gatewayV4":"nonsense"}}"#,
            r#"{"version":4,"registration":{"workspace":"a","gatewayV4":"100.127.255.253"}}"#,
        ] {
            assert!(Hello::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn bounds_are_kept() {
        let bad: [fn(&mut Registration); 7] = [
            |r| r.run = "a b".into(),
            |r| r.workspace.clear(),
            |r| r.workspace = "x".repeat(129),
            |r| r.workspace = "a\nb".into(),
            |r| r.host_ports = vec![0],
            |r| r.host_ports = vec![1; 257],
            |r| r.gateway_v4 = Ipv4Addr::LOCALHOST,
        ];
        for spoil in bad {
            let mut spoiled = registration();
            spoil(&mut spoiled);
            assert!(parse(spoiled.clone(), PROTOCOL_VERSION).is_err(), "{spoiled:?}");
        }
    }
}
