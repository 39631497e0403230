//! What is protected, and what is no TCP.

use std::io::ErrorKind;
use std::net::{SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use cordium_broker::GATEWAY_V6;

use crate::egress::servers::{is_untouched, name_server};
use crate::support::{NODE_V6, OUTSIDE_V6, World, isolated, run};
use crate::{QUICK, everything, is_reset, query, read_framed, write_framed};

/// Gives the node what makes more addresses its own.
fn make_a_router() {
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    run("ip", &["route", "add", "local", "fd99::/64", "dev", "lo"]);
    run("ip", &["route", "add", "local", "10.99.0.0/24", "dev", "lo"]);
}

#[test]
fn the_node_is_not_reached_by_any_of_its_addresses() {
    isolated("ipv6::refused::the_node_is_not_reached_by_any_of_its_addresses", || {
        let world = World::new();
        make_a_router();
        let _registered = world.register(everything(), vec![8080]);
        let node = [8080, 9090].map(|port| TcpListener::bind(("::", port)).unwrap());
        world.sandbox.run(|| {
            let gateway = GATEWAY_V6.to_string();
            for (address, port) in [
                (NODE_V6, 9090),
                // What the gateway's IPv4 address opens is not open here.
                (&gateway, 8080),
                (&gateway, 15001),
                ("fd48:3aca:68d9::", 9090),
                // The subnet's router, and a network that is routed to the node as a whole.
                ("fd77::", 9090),
                ("fd99::5", 9090),
                ("10.99.0.5", 9090),
                // Of the table.
                ("fd00:ec2::254", 9090),
                ("64:ff9b::127.0.0.1", 9090),
                ("64:ff9b::10.77.0.1", 9090),
                ("64:ff9b:1::127.0.0.1", 9090),
                ("2002:7f00:1::1", 9090),
                ("2002:a4d:1::1", 9090),
                ("::ffff:10.77.0.1", 9090),
                ("::ffff:0:127.0.0.1", 9090),
                // Open, but nobody is there.
                (OUTSIDE_V6, 9090),
            ] {
                is_reset(address, port);
            }
        });
        node.iter().for_each(is_untouched);
        assert!(world.log().contains("the address is one of the node's own"), "{}", world.log());
    });
}

/// The gateway has no address of their scopes: a redirected packet would be dropped in silence.
#[test]
fn scopes_that_cannot_be_redirected_are_refused_at_once() {
    isolated("ipv6::refused::scopes_that_cannot_be_redirected_are_refused_at_once", || {
        let world = World::new();
        let _registered = world.register(everything(), vec![]);
        world.sandbox.run(|| {
            let start = Instant::now();
            for (address, scope) in [("fe80::5", 2), ("fec0::5", 0), ("::10.77.0.1", 0)] {
                let to = SocketAddrV6::new(address.parse().unwrap(), 80, 0, scope);
                let error = TcpStream::connect_timeout(&to.into(), Duration::from_secs(10)).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
                let socket = UdpSocket::bind("[::]:0").unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.connect(SocketAddrV6::new(*to.ip(), 53, 0, scope)).unwrap();
                socket.send(&query("a.example", 28, 7)).unwrap();
                assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{to}");
            }
            assert!(start.elapsed() < QUICK);
        });
    });
}

#[test]
fn udp_is_refused_and_every_name_server_is_the_gateways() {
    isolated("ipv6::refused::udp_is_refused_and_every_name_server_is_the_gateways", || {
        let world = World::new();
        name_server();
        let _registered = world.register(everything(), vec![]);
        let outside = world.outside.run(|| [123, 53].map(|port| UdpSocket::bind(("::", port)).unwrap()));
        world.sandbox.run(|| {
            let start = Instant::now();
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket.connect((OUTSIDE_V6, 123)).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(start.elapsed() < QUICK);

            let asked = query("six.example", 28, 7);
            let mut packet = [0; 512];
            socket.connect((OUTSIDE_V6, 53)).unwrap();
            socket.send(&asked).unwrap();
            let length = socket.recv(&mut packet).unwrap();
            assert!(length > asked.len() && packet[..2] == [0, 7], "the broker's resolver answers");
            let mut stream = crate::connect(OUTSIDE_V6, 53);
            write_framed(&mut stream, &asked);
            assert!(read_framed(&mut stream).len() > asked.len());
            crate::ping(GATEWAY_V6.into());
        });
        for socket in outside {
            socket.set_nonblocking(true).unwrap();
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    });
}
