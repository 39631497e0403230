#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn word(bytes: &[u8], place: usize) -> u16 {
    u16::from_be_bytes([bytes[place], bytes[place + 1]])
}

/// As a receiver does it: every packet checked, then the pieces put together.
fn put_together(packets: &[Vec<u8>], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut pieces = Vec::new();
    for packet in packets {
        assert!(packet.len() <= LINK, "{}", packet.len());
        let (offset, more, data) = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                assert_eq!((packet[0], usize::from(word(packet, 2))), (0x45, packet.len()));
                assert_eq!(
                    (packet[9], &packet[12..16], &packet[16..20]),
                    (17, &from.octets()[..], &to.octets()[..])
                );
                let field = word(packet, 6);
                assert!(
                    packets.len() == 1 || word(packet, 4) == word(&packets[0], 4) && word(packet, 4) != 0
                );
                (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, &packet[20..])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                assert_eq!((packet[0], usize::from(word(packet, 4))), (0x60, packet.len() - 40));
                assert_eq!((&packet[8..24], &packet[24..40]), (&from.octets()[..], &to.octets()[..]));
                if packet[6] == 17 {
                    (0, false, &packet[40..])
                } else {
                    assert_eq!((packet[6], packet[40], &packet[44..48]), (44, 17, &packets[0][44..48]));
                    let field = word(packet, 42);
                    (usize::from(field & !7), field & 1 != 0, &packet[48..])
                }
            }
            _ => panic!("two families"),
        };
        pieces.push((offset, more, data));
    }
    let mut whole = Vec::new();
    for (index, (offset, more, data)) in pieces.iter().enumerate() {
        assert_eq!((*offset, *more), (whole.len(), index + 1 < pieces.len()));
        assert!(!more || data.len() % 8 == 0);
        whole.extend_from_slice(data);
    }
    whole
}

/// The bytes of a UDP datagram whose header is right.
fn opened(whole: &[u8], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    assert_eq!((word(whole, 0), word(whole, 2)), (from.port(), to.port()));
    assert_eq!(usize::from(word(whole, 4)), whole.len());
    assert_ne!(word(whole, 6), 0);
    let ends = Ends::new(from.ip(), to.ip()).unwrap();
    assert_eq!(fold(ends.pseudo_sum(17, whole.len()) + sum(whole)), 0);
    whole[8..].to_vec()
}

fn packets(from: SocketAddr, to: SocketAddr, id: u32, bytes: &[u8]) -> Vec<Vec<u8>> {
    datagram(from, to, id, bytes).map(|packet| [packet.head(), packet.body].concat()).collect()
}

proptest! {
    #[test]
    fn any_datagram_arrives_whole(
        bytes in prop::collection::vec(any::<u8>(), 0..6_000), id: u32, v6: bool, ports: (u16, u16),
    ) {
        let (from, to) = if v6 { ("[2a00::1]:0", "[fd48::3]:0") } else { ("192.0.2.1:0", "100.127.255.254:0") };
        let (mut from, mut to) = (at(from), at(to));
        from.set_port(ports.0);
        to.set_port(ports.1);
        let sent = packets(from, to, id, &bytes);
        prop_assert_eq!(opened(&put_together(&sent, from, to), from, to), bytes);
    }
}

#[test]
fn empty_and_longest_datagrams_and_the_edges_of_a_packet() {
    for (from, to, edge, longest) in [
        ("192.0.2.1:9", "100.127.255.254:40000", 1472, 65_507),
        ("[2a00::1]:9", "[fd48:3aca:68d9::3]:40000", 1452, 65_527),
    ] {
        let (from, to) = (at(from), at(to));
        for (length, count) in [(0, 1), (1, 1), (edge, 1), (edge + 1, 2), (longest, 45 + longest / 65_520)] {
            let bytes: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let sent = packets(from, to, u32::MAX, &bytes);
            assert!(sent.len() == count || length == longest && sent.len() >= 45, "{length}: {}", sent.len());
            assert_eq!(opened(&put_together(&sent, from, to), from, to), bytes);
        }
        assert!(packets(from, to, 1, &vec![0; longest + 1]).is_empty());
    }
    assert!(packets(at("192.0.2.1:9"), at("[fd48::3]:9"), 1, b"x").is_empty(), "of two families");
}

#[test]
fn a_checksum_is_never_zero() {
    let (from, to) = (at("0.0.0.0:0"), at("0.0.0.0:0"));
    // Protocol, twice the length, and these two bytes come to 0xffff.
    let bytes = (0xffff - 17 - 2 * 10_u16).to_be_bytes();
    assert_eq!(word(&packets(from, to, 0, &bytes)[0], 26), 0xffff);
}

#[test]
fn a_refusal_names_the_datagram_that_it_is_about() {
    let packet = refusal(at("100.127.255.254:4000"), at("192.0.2.1:123"), 48).unwrap();
    assert_eq!((packet.len(), packet[9], &packet[12..16]), (56, 1, &GATEWAY_V4.octets()[..]));
    assert_eq!((packet[20], packet[21], fold(sum(&packet[20..]))), (3, 3, 0));
    let inner = &packet[28..];
    assert_eq!((fold(sum(&inner[..20])), usize::from(word(inner, 2))), (0, 20 + 8 + 48));
    assert_eq!((word(inner, 20), word(inner, 22), word(inner, 24)), (4000, 123, 56));

    let packet = refusal(at("[fd48:3aca:68d9::3]:4000"), at("[2a00::1]:123"), 0).unwrap();
    assert_eq!((packet.len(), packet[6], &packet[8..24]), (96, 58, &GATEWAY_V6.octets()[..]));
    assert_eq!((packet[40], packet[41]), (1, 4));
    let ends = Ends::new(GATEWAY_V6.into(), "fd48:3aca:68d9::3".parse().unwrap()).unwrap();
    assert_eq!(fold(ends.pseudo_sum(58, packet.len() - 40) + sum(&packet[40..])), 0);
    assert!(refusal(at("100.127.255.254:1"), at("[2a00::1]:1"), 0).is_none());
}
