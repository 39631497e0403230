//! Destinations that no policy opens, as data with reasons.
//!
//! The table is static. The node's own addresses change and are the broker's to know; the networks that the node's
//! configuration protects come with the policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Cidr, spellings};

/// A range of addresses and why no workspace may reach it.
#[derive(Debug)]
pub struct Protected {
    network: Cidr,
    pub rule: &'static str,
    pub reason: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8, rule: &'static str, reason: &'static str) -> Protected {
    Protected { network: Cidr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length), rule, reason }
}

const fn v6(segments: [u16; 8], length: u8, rule: &'static str, reason: &'static str) -> Protected {
    let [a, b, c, d, e, f, g, h] = segments;
    Protected { network: Cidr::new(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), length), rule, reason }
}

const METADATA: &str = "cloud metadata hands out credentials of the node";

const TABLE: &[Protected] = &[
    v4(0, 0, 0, 0, 8, "unspecified", "0.0.0.0/8 means this node"),
    v4(127, 0, 0, 0, 8, "loopback", "the node's loopback"),
    v4(100, 127, 255, 252, 30, "gateway", "the gateway network belongs to the broker"),
    v4(100, 127, 255, 64, 26, "services", "no service of the workspace is at this address"),
    v4(100, 100, 100, 200, 32, "metadata", METADATA),
    v4(168, 63, 129, 16, 32, "metadata", METADATA),
    v4(192, 0, 0, 192, 32, "metadata", METADATA),
    v4(169, 254, 0, 0, 16, "link-local", "link-local addresses, cloud metadata among them"),
    v4(224, 0, 0, 0, 4, "multicast", "multicast reaches the node's networks"),
    v4(240, 0, 0, 0, 4, "reserved", "reserved addresses, broadcast among them"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified", "the unspecified address means this node"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback", "the node's loopback"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "metadata", METADATA),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "metadata", METADATA),
    v6([0xfd48, 0x3aca, 0x68d9, 0, 0, 0, 0, 0], 64, "gateway", "the gateway network belongs to the broker"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local", "link-local addresses reach the node's networks"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local", "site-local addresses are deprecated"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", "multicast reaches the node's networks"),
];

/// The entry that protects `address`, also when it hides as an IPv4 address in an IPv6 one.
pub fn find(address: IpAddr) -> Option<&'static Protected> {
    spellings(address)
        .into_iter()
        .flatten()
        .find_map(|spelling| TABLE.iter().find(|entry| entry.network.contains(spelling)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rule(address: &str) -> Option<&'static str> {
        find(address.parse().unwrap()).map(|entry| entry.rule)
    }

    #[test]
    fn each_class_is_protected() {
        for (address, expected) in [
            ("0.0.0.0", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.255", "loopback"),
            ("100.127.255.253", "gateway"),
            ("169.254.169.254", "link-local"),
            ("168.63.129.16", "metadata"),
            ("224.0.0.251", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("fd48:3aca:68d9::2", "gateway"),
            ("fd48:3aca:68d9:0:ffff::", "gateway"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("ff02::fb", "multicast"),
            ("fd00:ec2::254", "metadata"),
        ] {
            assert_eq!(rule(address), Some(expected), "{address}");
        }
    }

    #[test]
    fn ipv4_hidden_in_ipv6_is_found() {
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::127.0.0.1",
            "2002:7f00:1::1",
            "::ffff:169.254.169.254",
        ] {
            assert!(rule(address).is_some(), "{address}");
        }
    }

    #[test]
    fn ordinary_and_private_addresses_are_not() {
        for address in [
            "1.1.1.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.251",
            "126.255.255.255",
            "128.0.0.1",
            "2606:4700::1111",
            "fc00::1",
            "fd48:3aca:68d9:1::",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(rule(address), None, "{address}");
        }
    }
}
