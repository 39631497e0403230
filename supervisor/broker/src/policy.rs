//! What becomes of one flow: a pure decision over data.
//!
//! Order: the host mapping, the protected table, the node's own addresses, then the workspace's policy. Only the last is
//! the workspace's to choose.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::protected;
use crate::wire::{Policy, Registration};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Dial this address.
    Allow(SocketAddr),
    Deny {
        rule: &'static str,
        reason: &'static str,
    },
}

/// A registration, ready for decisions.
#[derive(Debug)]
pub(crate) struct Rules {
    gateway: Ipv4Addr,
    host_ports: BTreeSet<u16>,
    policy: Policy,
}

impl Rules {
    pub(crate) fn new(registration: &Registration) -> Self {
        Self {
            gateway: registration.gateway_v4,
            host_ports: registration.host_ports.iter().copied().collect(),
            policy: registration.policy,
        }
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Whether names outside this node may be asked for at all.
    pub(crate) fn resolves(&self) -> bool {
        self.policy == Policy::AllowAll
    }

    /// `is_node` tells whether an address is one of the node's own.
    pub(crate) fn decide(&self, destination: SocketAddr, is_node: impl Fn(IpAddr) -> bool) -> Decision {
        let address = destination.ip().to_canonical();
        let port = destination.port();
        if address == IpAddr::V4(self.gateway) {
            return if self.host_ports.contains(&port) {
                Decision::Allow((Ipv4Addr::LOCALHOST, port).into())
            } else {
                Decision::Deny {
                    rule: "host-ports",
                    reason: "the port is not among the given ports of the node",
                }
            };
        }
        if port == 0 {
            return Decision::Deny { rule: "port", reason: "port 0 does not exist" };
        }
        if let Some(entry) = protected::find(address) {
            return Decision::Deny { rule: entry.rule, reason: entry.reason };
        }
        if protected::spellings(address).into_iter().flatten().any(is_node) {
            return Decision::Deny { rule: "node", reason: "the address is one of the node's own" };
        }
        match self.policy {
            Policy::AllowAll => Decision::Allow((address, port).into()),
            Policy::Deny => {
                Decision::Deny { rule: "default", reason: "the workspace's policy allows no egress" }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rules(policy: Policy) -> Rules {
        let gateway_v4 = crate::GATEWAY_V4;
        Rules::new(&Registration { workspace: "w".into(), gateway_v4, policy, host_ports: vec![8080] })
    }

    fn rule(policy: Policy, destination: &str) -> &'static str {
        let node: IpAddr = "10.1.2.3".parse().unwrap();
        match rules(policy).decide(destination.parse().unwrap(), |address| address == node) {
            Decision::Allow(_) => "allowed",
            Decision::Deny { rule, .. } => rule,
        }
    }

    #[test]
    fn allow_all_opens_what_is_not_protected() {
        for open in ["1.1.1.1:443", "10.0.0.9:5432", "192.168.0.1:80", "[2606:4700::1111]:443"] {
            assert_eq!(rule(Policy::AllowAll, open), "allowed", "{open}");
            assert_eq!(rule(Policy::Deny, open), "default", "{open}");
        }
    }

    #[test]
    fn the_node_is_not_reached() {
        for (closed, expected) in [
            ("127.0.0.1:22", "loopback"),
            ("[::1]:22", "loopback"),
            ("[::ffff:127.0.0.1]:22", "loopback"),
            ("169.254.169.254:80", "link-local"),
            ("10.1.2.3:6443", "node"),
            ("[::ffff:10.1.2.3]:6443", "node"),
            ("[64:ff9b::a01:203]:6443", "node"),
            ("100.127.255.254:80", "gateway"),
            ("8.8.8.8:0", "port"),
        ] {
            assert_eq!(rule(Policy::AllowAll, closed), expected, "{closed}");
        }
    }

    #[test]
    fn the_gateway_is_the_nodes_loopback_on_given_ports_only() {
        for policy in [Policy::AllowAll, Policy::Deny] {
            let decide = |port| rules(policy).decide((crate::GATEWAY_V4, port).into(), |_| true);
            assert_eq!(decide(8080), Decision::Allow("127.0.0.1:8080".parse().unwrap()));
            for port in [0, 22, 8081, crate::TCP_PORT] {
                assert!(matches!(decide(port), Decision::Deny { rule: "host-ports", .. }), "{port}");
            }
        }
    }
}
