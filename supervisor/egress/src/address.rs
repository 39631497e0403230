//! The ways in which one address can be written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address itself and the IPv4 address that a translator or tunnel would make of it.
pub fn spellings(address: IpAddr) -> [Option<IpAddr>; 2] {
    let IpAddr::V6(v6) = address else { return [Some(address), None] };
    let octets = v6.octets();
    let at = |i: usize| IpAddr::V4(Ipv4Addr::new(octets[i], octets[i + 1], octets[i + 2], octets[i + 3]));
    let hidden = match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] if v6 != Ipv6Addr::UNSPECIFIED && v6 != Ipv6Addr::LOCALHOST => {
            Some(at(12))
        }
        [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => Some(at(12)),
        [0x2002, ..] => Some(at(2)),
        _ => None,
    };
    [Some(address), hidden]
}
