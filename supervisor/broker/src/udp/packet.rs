//! Packets for the sandbox as they go over its link: datagrams under their destination's address, and refusals.
//!
//! Written by hand, because no socket can answer from every address and port. What is longer than the link takes is cut into
//! fragments: a raw socket does not do it. The kernel fills in the checksum of an IPv4 header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{GATEWAY_V4, GATEWAY_V6};

/// What one packet takes on the veth pair.
const LINK: usize = 1500;
const V4: usize = 20;
const V6: usize = 40;
const FRAGMENT: usize = 8;
const UDP: usize = 8;
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_ICMP_V6: u8 = 58;
const HOPS: u8 = 64;
const MORE_FRAGMENTS_V4: u16 = 0x2000;

/// One packet: headers, and a piece of the datagram's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    head: [u8; V6 + FRAGMENT + UDP],
    length: usize,
    pub body: &'a [u8],
}

impl Packet<'_> {
    pub(super) fn head(&self) -> &[u8] {
        self.head.get(..self.length).unwrap_or_default()
    }
}

/// Two addresses of one family.
#[derive(Clone, Copy)]
enum Ends {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

impl Ends {
    fn new(from: IpAddr, to: IpAddr) -> Option<Self> {
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Some(Self::V4(from, to)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Some(Self::V6(from, to)),
            _ => None,
        }
    }

    /// What upper checksums cover beside the payload.
    fn pseudo_sum(self, protocol: u8, length: usize) -> u32 {
        let addresses = match self {
            Self::V4(from, to) => sum(&from.octets()) + sum(&to.octets()),
            Self::V6(from, to) => sum(&from.octets()) + sum(&to.octets()),
        };
        // Both halves of a length that is far below 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        addresses + u32::from(protocol) + (length >> 16) + (length & 0xffff)
    }

    /// An IP header before `length` bytes of `protocol`. `fragment` is the field of IPv4 that has flags and offset.
    fn header(self, protocol: u8, length: usize, id: u16, fragment: u16) -> Vec<u8> {
        let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
        match self {
            Self::V4(from, to) => {
                let mut header = vec![0x45, 0];
                header.extend(word(V4 + length));
                header.extend(id.to_be_bytes());
                header.extend(fragment.to_be_bytes());
                header.extend([HOPS, protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                header
            }
            Self::V6(from, to) => {
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(word(length));
                header.extend([protocol, HOPS]);
                header.extend(from.octets());
                header.extend(to.octets());
                header
            }
        }
    }
}

/// The datagram in as many packets as it takes; none if it cannot be one. `id` is that of its fragments.
pub(super) fn datagram(
    from: SocketAddr,
    to: SocketAddr,
    id: u32,
    bytes: &[u8],
) -> impl Iterator<Item = Packet<'_>> {
    let whole = UDP + bytes.len();
    let ends = Ends::new(from.ip(), to.ip()).filter(|ends| match ends {
        Ends::V4(..) => V4 + whole <= usize::from(u16::MAX),
        Ends::V6(..) => whole <= usize::from(u16::MAX),
    });
    let header = udp_header(ends, from.port(), to.port(), bytes);
    // Fragments begin at multiples of eight bytes.
    let room = match ends {
        Some(Ends::V4(..)) => LINK - V4,
        _ if V6 + whole <= LINK => LINK - V6,
        _ => (LINK - V6 - FRAGMENT) & !7,
    };
    let mut next = ends.map(|_| 0);
    std::iter::from_fn(move || {
        let (ends, offset) = (ends?, next?);
        let end = whole.min(offset + room);
        next = (end < whole).then_some(end);
        let mut head = ip_headers(ends, (offset, end, whole), id);
        if offset == 0 {
            head.extend(header);
        }
        let body = bytes.get(offset.max(UDP) - UDP..end - UDP)?;
        let mut packet = Packet { head: [0; V6 + FRAGMENT + UDP], length: head.len(), body };
        packet.head.get_mut(..head.len())?.copy_from_slice(&head);
        Some(packet)
    })
}

/// Of a piece of something whole.
fn ip_headers(ends: Ends, (offset, end, whole): (usize, usize, usize), id: u32) -> Vec<u8> {
    let cut = end - offset < whole;
    let more = end < whole;
    let eighths = u16::try_from(offset / 8).unwrap_or_default();
    match ends {
        Ends::V4(..) => {
            let flags = if more { MORE_FRAGMENTS_V4 } else { 0 };
            // Zero lets the kernel choose, which would not be the same for each fragment.
            let id = if cut { u16::try_from(id % 65_535).unwrap_or_default() + 1 } else { 0 };
            ends.header(PROTOCOL_UDP, end - offset, id, flags | eighths)
        }
        Ends::V6(..) if !cut => ends.header(PROTOCOL_UDP, whole, 0, 0),
        Ends::V6(..) => {
            let mut head = ends.header(PROTOCOL_FRAGMENT, FRAGMENT + end - offset, 0, 0);
            head.extend([PROTOCOL_UDP, 0]);
            head.extend(((eighths << 3) | u16::from(more)).to_be_bytes());
            head.extend(id.to_be_bytes());
            head
        }
    }
}

fn udp_header(ends: Option<Ends>, from: u16, to: u16, bytes: &[u8]) -> [u8; UDP] {
    let length = UDP + bytes.len();
    let [a, b] = from.to_be_bytes();
    let [c, d] = to.to_be_bytes();
    let [e, f] = u16::try_from(length).unwrap_or_default().to_be_bytes();
    let mut header = [a, b, c, d, e, f, 0, 0];
    if let Some(ends) = ends {
        let checksum = match fold(ends.pseudo_sum(PROTOCOL_UDP, length) + sum(&header) + sum(bytes)) {
            // Zero would mean that there is none.
            0 => 0xffff,
            checksum => checksum,
        };
        [header[6], header[7]] = checksum.to_be_bytes();
    }
    header
}

/// What the gateway says to `source` of a datagram of `length` bytes to `destination`: nobody listens there.
pub(super) fn refusal(source: SocketAddr, destination: SocketAddr, length: usize) -> Option<Vec<u8>> {
    let refused = Ends::new(source.ip(), destination.ip())?;
    let mut original = refused.header(PROTOCOL_UDP, UDP + length, 0, 0);
    if let Ends::V4(..) = refused {
        let checksum = fold(sum(&original)).to_be_bytes();
        original.get_mut(10..12)?.copy_from_slice(&checksum);
    }
    original.extend(source.port().to_be_bytes());
    original.extend(destination.port().to_be_bytes());
    original.extend(u16::try_from(UDP + length).unwrap_or_default().to_be_bytes());
    original.extend([0, 0]);
    // Type and code: port unreachable.
    let (gateway, protocol, kind) = match refused {
        Ends::V4(..) => (GATEWAY_V4.into(), PROTOCOL_ICMP, [3, 3]),
        Ends::V6(..) => (GATEWAY_V6.into(), PROTOCOL_ICMP_V6, [1, 4]),
    };
    let mut message = [&kind[..], &[0; 6], &original].concat();
    let ends = Ends::new(gateway, source.ip())?;
    let covered = match ends {
        Ends::V4(..) => 0,
        Ends::V6(..) => ends.pseudo_sum(protocol, message.len()),
    };
    let checksum = fold(covered + sum(&message)).to_be_bytes();
    message.get_mut(2..4)?.copy_from_slice(&checksum);
    let mut packet = ends.header(protocol, message.len(), 0, 0);
    packet.extend(message);
    Some(packet)
}

/// The sum of RFC 1071, not folded: less than 2^32 for 65,535 bytes.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    words.sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
