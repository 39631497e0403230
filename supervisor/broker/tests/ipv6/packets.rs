//! Packets made by hand: false sources, extension headers, fragments, router advertisements.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cordium_broker::{GATEWAY_V6, SANDBOX_V6};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::egress::servers::name_server;
use crate::support::{World, isolated};
use crate::{QUICK, everything, query};

const UDP: u8 = 17;
const ICMP: u8 = 58;
const FRAGMENT: u8 = 44;
/// Nobody's: the gateway's resolver answers in its place.
const SERVER: Ipv6Addr = Ipv6Addr::new(0x2a00, 0x1450, 0, 0, 0, 0, 0, 0x53);

/// Sends a packet as it is, whoever its source is said to be.
fn send(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::RAW)).unwrap();
    let scope = if to.is_multicast() { 2 } else { 0 };
    sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV6::new(to, 0, 0, scope)).unwrap();
}

/// Puts the checksum of the pseudo header and the payload in its place.
fn checked(from: Ipv6Addr, to: Ipv6Addr, next: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let all = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, next], &payload].concat();
    let mut sum: u32 = all.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    payload
}

/// A question to a name server, as a datagram.
fn question(from: Ipv6Addr, id: u16) -> Vec<u8> {
    let asked = query("six.example", 28, id);
    let mut datagram = [40_000_u16, 53, u16::try_from(8 + asked.len()).unwrap(), 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect::<Vec<u8>>();
    datagram.extend(asked);
    checked(from, SERVER, UDP, datagram, 6)
}

/// In two packets, the first of eight bytes.
fn send_in_fragments(next: u8, payload: &[u8], id: u8) {
    let (first, second) = payload.split_at(8);
    for (part, offset) in [(first, [0, 1]), (second, [0, 8])] {
        let header = [next, 0, offset[0], offset[1], 0, 0, 0, id];
        send(SANDBOX_V6, SERVER, FRAGMENT, &[&header, part].concat());
    }
}

#[test]
fn only_plain_packets_from_the_sandboxs_own_address_are_heard() {
    isolated("ipv6::packets::only_plain_packets_from_the_sandboxs_own_address_are_heard", || {
        let world = World::new();
        let asked = name_server();
        let _registered = world.register(everything(), vec![]);
        world.sandbox.run(|| {
            for from in [
                "fd48:3aca:68d9::4",
                "fd48:3aca:68d9::2",
                "fd00::5",
                "2a00:1450::53",
                "fe80::5",
                "::",
                "::ffff:100.127.255.254",
                "2002:647f:fffe::",
                "ff02::1",
            ] {
                let from = from.parse().unwrap();
                send(from, SERVER, UDP, &question(from, 1));
            }
            let plain = question(SANDBOX_V6, 2);
            let pad = [UDP, 0, 1, 4, 0, 0, 0, 0];
            let route = [[UDP, 2, 0, 1, 0, 0, 0, 0].to_vec(), GATEWAY_V6.octets().to_vec()].concat();
            let segments = [[UDP, 2, 4, 1, 0, 0, 0, 0].to_vec(), GATEWAY_V6.octets().to_vec()].concat();
            for (kind, header) in [(0, &pad[..]), (60, &pad), (43, &route), (43, &segments)] {
                send(SANDBOX_V6, SERVER, kind, &[header, &plain].concat());
            }
            // Hidden in fragments, they are seen when the packet is whole again.
            send_in_fragments(60, &[&pad[..], &plain].concat(), 1);
        });
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(asked.load(Ordering::SeqCst), 0);
        world.sandbox.run(|| {
            send(SANDBOX_V6, SERVER, UDP, &question(SANDBOX_V6, 3));
            send_in_fragments(UDP, &question(SANDBOX_V6, 4), 2);
        });
        let start = Instant::now();
        while asked.load(Ordering::SeqCst) < 2 {
            assert!(start.elapsed() < QUICK, "the same packets without a fault are heard, also in fragments");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    });
}

/// What the gateway knows of addresses, routes and neighbours.
fn state(world: &World) -> String {
    world.gateway.run(|| {
        let outputs = [["-6", "addr"], ["-6", "route"]].map(|args| {
            let output = std::process::Command::new("ip").args(args).output().unwrap();
            // Lifetimes count down.
            String::from_utf8(output.stdout)
                .unwrap()
                .lines()
                .filter(|l| !l.contains("lft"))
                .collect::<String>()
        });
        outputs.concat()
    })
}

#[test]
fn the_gateway_does_not_learn_routes_or_addresses_from_the_sandbox() {
    isolated("ipv6::packets::the_gateway_does_not_learn_routes_or_addresses_from_the_sandbox", || {
        let world = World::new();
        let before = state(&world);
        assert!(before.contains("fd48:3aca:68d9::2/127") && !before.contains("default"), "{before}");
        let advertise = || {
            let all: Ipv6Addr = "ff02::1".parse().unwrap();
            for from in [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5), SANDBOX_V6] {
                for to in [all, GATEWAY_V6] {
                    // A router for half an hour, with a network to take addresses of.
                    let mut advert = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
                    advert.extend([3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0, 0xfd, 0xee]);
                    advert.extend([0; 14]);
                    send(from, to, ICMP, &checked(from, to, ICMP, advert, 2));
                }
            }
        };
        world.sandbox.run(advertise);
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(state(&world), before);
        // Without the rules it would have been heard.
        world.gateway.run(|| crate::support::run("nft", &["flush", "ruleset"]));
        world.sandbox.run(advertise);
        let start = Instant::now();
        while !state(&world).contains("default") {
            assert!(start.elapsed() < QUICK, "{}", state(&world));
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
