//! Datagrams that nobody sends by accident.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use cordium_broker::{GATEWAY_V4, GATEWAY_V6, SANDBOX_V4};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::{all, at, client, echo, echoes, is_refused, is_silent};
use crate::support::{NODE, NODE_V6, OUTSIDE, World, isolated, run};

/// A datagram with these ports, whoever its source is said to be.
fn send(from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16), bytes: &[u8]) {
    let length = u16::try_from(8 + bytes.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    for word in [ports.0, ports.1, length, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(bytes);
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW)).unwrap();
    rustix::net::sockopt::set_socket_broadcast(&socket, true).unwrap();
    sendto(&socket, &packet, SendFlags::empty(), &SocketAddr::from((to, 0))).unwrap();
}

#[test]
fn the_node_and_its_networks_are_not_reached() {
    isolated("udp::hostile::the_node_and_its_networks_are_not_reached", || {
        let world = World::new();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        run("ip", &["route", "add", "local", "fd99::/64", "dev", "lo"]);
        run("ip", &["route", "add", "local", "10.99.0.0/24", "dev", "lo"]);
        let _registered = world.register(all(), vec![9090]);
        let node = [9090, 5353].map(|port| UdpSocket::bind(("::", port)).unwrap());
        let outside = world.outside.run(|| UdpSocket::bind(("0.0.0.0", 5353)).unwrap());
        outside.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &OUTSIDE.parse().unwrap()).unwrap();
        world.sandbox.run(|| {
            let (v4, v6) = (GATEWAY_V4.to_string(), GATEWAY_V6.to_string());
            for address in [
                NODE,
                NODE_V6,
                &v4,
                &v6,
                "169.254.169.254",
                "10.99.0.5",
                "fd99::5",
                "fd77::",
                "fd48:3aca:68d9::",
                "64:ff9b::127.0.0.1",
                "64:ff9b::10.77.0.1",
                "2002:7f00:1::1",
                "::ffff:0:127.0.0.1",
                "fd00:ec2::254",
            ] {
                is_refused(address, 9090);
            }
            // Without an answer: none is sent to a broadcast, and these are not delivered.
            for to in [[224, 0, 0, 251], [255, 255, 255, 255], [10, 77, 0, 255], [127, 0, 0, 1], [0, 0, 0, 0]]
            {
                send(SANDBOX_V4, to.into(), (4000, 5353), b"x");
            }
        });
        // A broadcast address of the node's networks is the node's.
        std::thread::sleep(Duration::from_millis(300));
        node.iter().for_each(is_silent);
        is_silent(&outside);
    });
}

#[test]
fn forged_sources_and_impossible_ports_go_nowhere_and_the_rest_goes_on() {
    isolated("udp::hostile::forged_sources_and_impossible_ports_go_nowhere_and_the_rest_goes_on", || {
        let world = World::new();
        let _registered = world.register(all(), vec![]);
        echo(&world, OUTSIDE, 123);
        let silent = world.outside.run(|| UdpSocket::bind(at(OUTSIDE, 124)).unwrap());
        world.sandbox.run(move || {
            let to: Ipv4Addr = OUTSIDE.parse().unwrap();
            for from in ["100.127.255.252", "100.127.255.253", "10.77.0.9", "127.0.0.1", "8.8.8.8"] {
                send(from.parse().unwrap(), to, (4000, 124), b"x");
            }
            send(SANDBOX_V4, to, (0, 124), b"x");
            send(SANDBOX_V4, to, (4000, 0), b"x");
            std::thread::sleep(Duration::from_millis(300));
            is_silent(&silent);
            send(SANDBOX_V4, to, (4000, 124), b"x");
            silent.set_nonblocking(false).unwrap();
            silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(silent.recv(&mut [0; 8]).unwrap(), 1, "the same without a fault");
            echoes(&client(OUTSIDE, 123), b"and on");
        });
    });
}
