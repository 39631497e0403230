//! Which addresses are publicly routable, as data: what the IANA registries of special-purpose addresses call not
//! globally reachable is not, and of IPv6 only global unicast is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Cidr, spellings};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Cidr {
    Cidr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length)
}

const fn v6(a: u16, b: u16, c: u16, length: u8) -> Cidr {
    Cidr::new(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), length)
}

/// Not public, although IPv4 or global unicast.
const SPECIAL: &[Cidr] = &[
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    // Shared by carriers.
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    // Protocol assignments.
    v4(192, 0, 0, 0, 24),
    // Documentation, three networks of it.
    v4(192, 0, 2, 0, 24),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    // Relays from 6to4.
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    // Benchmarks.
    v4(198, 18, 0, 0, 15),
    // Multicast, and what is reserved.
    v4(224, 0, 0, 0, 3),
    // Protocol assignments: Teredo, ORCHID, benchmarks.
    v6(0x2001, 0, 0, 23),
    // Documentation.
    v6(0x2001, 0xdb8, 0, 32),
    v6(0x3fff, 0, 0, 20),
    // 6to4.
    v6(0x2002, 0, 0, 16),
];

const GLOBAL_UNICAST: Cidr = v6(0x2000, 0, 0, 3);
/// The well-known prefix of translators; as public as the IPv4 address in it.
const TRANSLATED: Cidr = v6(0x64, 0xff9b, 0, 96);

/// Whether `address` is publicly routable, and the IPv4 address hidden in it as well.
pub fn is_public(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let routable = address.is_ipv4() || GLOBAL_UNICAST.contains(address) || TRANSLATED.contains(address);
    routable
        && spellings(address)
            .into_iter()
            .flatten()
            .all(|spelling| !SPECIAL.iter().any(|network| network.contains(spelling)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_internet_is_public() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.169.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn private_and_special_addresses_are_not() {
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:db8::1",
            "2002::1",
            "2002:808:808::1",
            "3fff::1",
            "5f00::1",
            "4000::1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "::8.8.8.8",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}
