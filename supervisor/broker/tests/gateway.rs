//! The broker behind a real gateway: a client in a sandbox namespace, a server outside.
#![allow(clippy::unwrap_used)]

mod egress;
mod http_rules;
mod inspect;
mod ipv6;
mod services;
mod support;
mod udp;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use cordium_broker::{GATEWAY_V4, Sockets, register};
use cordium_egress::{Action, Policy, Rule};
use support::{Broker, NODE, OUTSIDE, World, isolated};

/// Far from what a caller waits for who is not answered at all: two minutes.
const QUICK: Duration = Duration::from_secs(20);

/// Used by the other tests as the broker's process.
#[test]
fn broker_process() {
    support::broker_role();
}

/// Every address, private ones too.
fn everything() -> Policy {
    let cidrs = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let rule = Rule { cidrs, ..egress::rule(Action::Allow, "", "", &[]) };
    Policy { rules: vec![rule], ..Policy::default() }
}

fn connect(ip: &str, port: u16) -> TcpStream {
    try_connect(ip, port).unwrap()
}

fn try_connect(ip: &str, port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Reading ends with a reset, soon.
fn is_reset(ip: &str, port: u16) {
    let start = Instant::now();
    let address = SocketAddr::new(ip.parse().unwrap(), port);
    let error = TcpStream::connect_timeout(&address, Duration::from_secs(10)).and_then(|mut stream| {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.read(&mut [0]).map(|count| panic!("{ip}:{port}: read {count} instead of a reset"))
    });
    let kind = error.unwrap_err().kind();
    assert!(
        matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused),
        "{ip}:{port}: {kind:?}"
    );
    assert!(start.elapsed() < QUICK, "{ip}:{port} took {:?}", start.elapsed());
}

/// Bytes that no shifted or repeated piece can imitate.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend(seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn listen(world: &World, port: u16) -> TcpListener {
    world.outside.run(move || TcpListener::bind(("::", port)).unwrap())
}

#[test]
fn large_transfers_arrive_whole_both_ways_and_half_close_passes() {
    isolated("large_transfers_arrive_whole_both_ways_and_half_close_passes", || {
        const SIZE: usize = 64 << 20;
        let world = World::new();
        let _registered = world.register(everything(), vec![]);
        let server = listen(&world, 80);
        let server = std::thread::spawn(move || {
            let (mut stream, peer) = server.accept().unwrap();
            assert_eq!(
                peer.ip().to_canonical(),
                NODE.parse::<IpAddr>().unwrap(),
                "the node dials, not the sandbox"
            );
            let mut writer = stream.try_clone().unwrap();
            let writer = std::thread::spawn(move || writer.write_all(&noise(SIZE, 2)));
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert!(got == noise(SIZE, 1), "the upload is whole");
            writer.join().unwrap().unwrap();
            // The client has ended its half long ago; ours still works.
            stream.write_all(b"the end").unwrap();
        });
        world.sandbox.run(|| {
            let mut stream = connect(OUTSIDE, 80);
            let mut writer = stream.try_clone().unwrap();
            let writer = std::thread::spawn(move || {
                writer.write_all(&noise(SIZE, 1)).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            writer.join().unwrap();
            let end = got.split_off(SIZE.min(got.len()));
            assert!(got == noise(SIZE, 2), "the download is whole");
            assert_eq!(end, b"the end");
        });
        server.join().unwrap();
    });
}

#[test]
fn resets_pass_both_ways_even_while_nothing_is_read() {
    isolated("resets_pass_both_ways_even_while_nothing_is_read", || {
        let world = World::new();
        let _registered = world.register(everything(), vec![]);
        let server = listen(&world, 80);
        let client = world.sandbox.spawn(|| {
            let mut stream = connect(OUTSIDE, 80);
            stream.write_all(b"x").unwrap();
            let mut byte = [0];
            assert_eq!(stream.read(&mut byte).unwrap_err().kind(), ErrorKind::ConnectionReset);
        });
        let (mut stream, _) = server.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        client.join();

        // The server does not read: the broker is stuck in writing when the client resets.
        let client = world.sandbox.spawn(|| {
            let mut stream = connect(OUTSIDE, 80);
            stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
            let block = vec![0; 1 << 20];
            let mut sent = 0;
            while let Ok(count) = stream.write(&block) {
                sent += count;
                assert!(sent < 256 << 20, "there is no back-pressure");
            }
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        });
        let (mut stream, _) = server.accept().unwrap();
        client.join();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let start = Instant::now();
        let error = std::io::copy(&mut stream, &mut std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(start.elapsed() < QUICK);
    });
}

#[test]
fn protected_and_closed_destinations_are_reset_at_once() {
    isolated("protected_and_closed_destinations_are_reset_at_once", || {
        let world = World::new();
        let registered = world.register(everything(), vec![8080]);
        let node = TcpListener::bind("0.0.0.0:8080").unwrap();
        let other = TcpListener::bind("0.0.0.0:8081").unwrap();
        let hello = std::thread::spawn(move || node.accept().unwrap().0.write_all(b"from the node").unwrap());
        let gateway = GATEWAY_V4.to_string();
        world.sandbox.run(move || {
            for (ip, port) in
                [(NODE, 8080), ("169.254.169.254", 80), (OUTSIDE, 81), (&gateway, 8081), (&gateway, 15001)]
            {
                is_reset(ip, port);
            }
            let mut text = String::new();
            connect(&gateway, 8080).read_to_string(&mut text).unwrap();
            assert_eq!(text, "from the node");
        });
        hello.join().unwrap();
        other.set_nonblocking(true).unwrap();
        assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

        drop(registered);
        let _registered = world.register(Policy::default(), vec![]);
        let server = listen(&world, 80);
        world.sandbox.run(|| is_reset(OUTSIDE, 80));
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nothing left");
    });
}

#[test]
fn what_is_not_tcp_or_dns_fails_at_once_and_spoofed_sources_are_not_heard() {
    isolated("what_is_not_tcp_or_dns_fails_at_once_and_spoofed_sources_are_not_heard", || {
        let world = World::new();
        let _registered = world.register(everything(), vec![]);
        let server = world.outside.run(|| UdpSocket::bind("0.0.0.0:123").unwrap());
        world.sandbox.run(|| {
            let start = Instant::now();
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect((OUTSIDE, 123)).unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            assert!(start.elapsed() < QUICK);
            ping(GATEWAY_V4.into());
            support::run("ip", &["addr", "add", "10.5.5.5/32", "dev", "eth0"]);
            let spoofed = UdpSocket::bind("10.5.5.5:0").unwrap();
            spoofed.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            spoofed.send_to(&query("a.example", 1, 7), (OUTSIDE, 53)).unwrap();
            assert_eq!(spoofed.recv(&mut [0; 512]).unwrap_err().kind(), ErrorKind::WouldBlock);
        });
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

#[test]
fn a_thousand_flows_at_once() {
    isolated("a_thousand_flows_at_once", || {
        const FLOWS: usize = 1200;
        let world = World::new();
        let _registered = world.register(everything(), vec![]);
        let server = listen(&world, 80);
        nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(4095).unwrap()).unwrap();
        let served = std::thread::spawn(move || {
            let mut streams: Vec<TcpStream> = (0..FLOWS).map(|_| server.accept().unwrap().0).collect();
            for stream in &mut streams {
                let mut word = [0; 8];
                stream.read_exact(&mut word).unwrap();
                stream.write_all(&word).unwrap();
            }
        });
        world.sandbox.run(|| {
            let mut streams: Vec<TcpStream> = (0..FLOWS).map(|_| connect(OUTSIDE, 80)).collect();
            for (number, stream) in (0_u64..).zip(&mut streams) {
                stream.write_all(&number.to_le_bytes()).unwrap();
            }
            for (number, stream) in (0_u64..).zip(&mut streams) {
                let mut word = [0; 8];
                stream.read_exact(&mut word).unwrap();
                assert_eq!(u64::from_le_bytes(word), number);
            }
        });
        served.join().unwrap();
    });
}

#[test]
fn the_end_of_the_keeper_ends_its_flows_and_the_broker_serves_on() {
    isolated("the_end_of_the_keeper_ends_its_flows_and_the_broker_serves_on", || {
        let mut world = World::new();
        let registered = world.register(everything(), vec![]);
        let server = listen(&world, 80);
        let client = world.sandbox.spawn(|| {
            let mut stream = connect(OUTSIDE, 80);
            stream.write_all(b"x").unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            is_reset(OUTSIDE, 80);
        });
        let (mut stream, _) = server.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        drop(registered);
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        client.join();

        let again = world.register(everything(), vec![]);
        let client = world.sandbox.spawn(|| connect(OUTSIDE, 80));
        server.accept().unwrap();
        client.join();

        let before = worker_status(world.broker.pid());
        for (field, value) in [("CapEff", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2")] {
            assert_eq!(before.iter().find(|(name, _)| name == field).unwrap().1, value, "{field}");
        }
        assert!(world.broker.terminate());
        assert!(!world.socket().exists(), "the socket's name is gone");
        let mut poll = [nix::poll::PollFd::new(again.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(
            nix::poll::poll(&mut poll, 2000_u16).unwrap(),
            1,
            "the keeper hears that the broker is gone"
        );
        drop(again);
        world.broker = Broker::start(&world.socket());
        let _again = world.register(everything(), vec![]);
        let client = world.sandbox.spawn(|| connect(OUTSIDE, 80));
        server.accept().unwrap();
        client.join();
    });
}

/// An ICMP echo request and its answer.
fn ping(to: IpAddr) {
    use rustix::net::{
        AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket, sockopt,
    };
    // Of IPv6, the kernel makes the checksum, and the header does not come along.
    let (family, protocol, request, header) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, [8, 0, 0xf7, 0xfd, 0, 1, 0, 1], 20),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, [128, 0, 0, 0, 0, 1, 0, 1], 0),
    };
    let icmp = socket(family, SocketType::RAW, Some(protocol)).unwrap();
    sockopt::set_socket_timeout(&icmp, sockopt::Timeout::Recv, Some(Duration::from_secs(2))).unwrap();
    sendto(&icmp, &request, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    loop {
        let mut reply = vec![0; 64];
        let (length, _) = recv(&icmp, &mut reply, RecvFlags::empty()).unwrap();
        // Neighbours are asked for by ICMPv6, too.
        if (length, reply[header]) == (header + 8, if to.is_ipv4() { 0 } else { 129 }) {
            return;
        }
    }
}

/// The status of a worker thread: in a test, the process's first thread is the test harness.
fn worker_status(pid: u32) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let mut texts = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    let text = texts.find(|text| text.starts_with("Name:\tbroker\n")).unwrap();
    text.lines().filter_map(|line| line.split_once(":\t")).map(|(a, b)| (a.into(), b.trim().into())).collect()
}

#[test]
fn a_registration_with_wrong_sockets_is_refused_with_the_reason() {
    isolated("a_registration_with_wrong_sockets_is_refused_with_the_reason", || {
        let world = World::new();
        let registration = cordium_broker::Registration {
            workspace: "w".into(),
            run: "r".into(),
            gateway_v4: GATEWAY_V4,
            host_ports: vec![],
        };
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (udp, tcp) = (udp.as_fd(), tcp.as_fd());
        let good = Sockets { tcp, udp_dns: udp, tcp_dns: tcp, udp, raw_v4: udp, raw_v6: None };
        for (sockets, expected) in [
            (Sockets { tcp: udp, ..good }, "the tcp socket"),
            (Sockets { udp: tcp, ..good }, "the udp socket"),
            (good, "the raw IPv4 socket"),
        ] {
            let registered = register(&world.socket(), &registration, &everything(), sockets);
            let error = registered.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    });
}

fn query(name: &str, kind: u16, id: u16) -> Vec<u8> {
    let mut packet = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend([&kind.to_be_bytes()[..], &[0, 1]].concat());
    packet
}

/// A name server with four names: `a.example` (A, AAAA), `big.example` (TXT, too long for UDP), the rest NXDOMAIN + SOA.
fn answer(asked: &[u8], stream: bool) -> Vec<u8> {
    let kind = u16::from_be_bytes([asked[asked.len() - 4], asked[asked.len() - 3]]);
    let mut reply = asked.to_vec();
    (reply[2], reply[3]) = (0x81, 0x80);
    let mut record = |section: usize, kind: u16, data: &[u8]| {
        reply[section + 1] += 1;
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 60]);
        reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend(data);
    };
    if asked[12..].starts_with(b"\x01a\x07example\0") {
        match kind {
            1 => record(6, 1, &[192, 0, 2, 7]),
            28 => record(6, 28, &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]),
            _ => {}
        }
    } else if asked[12..].starts_with(b"\x03big\x07example\0") {
        if stream {
            (0..20).for_each(|_| record(6, 16, &[&[200][..], &[b'x'; 200]].concat()));
        } else {
            reply[2] |= 2;
        }
    } else {
        record(8, 6, &[&[0, 0][..], &[0; 20]].concat());
        reply[3] |= 3;
    }
    reply
}

fn name_server() {
    let udp = UdpSocket::bind(support::UPSTREAM).unwrap();
    let tcp = TcpListener::bind(support::UPSTREAM).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut packet) {
            udp.send_to(&answer(&packet[..length], false), client).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let asked = read_framed(&mut stream);
            write_framed(&mut stream, &answer(&asked, true));
        }
    });
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet).unwrap();
    packet
}

fn write_framed(stream: &mut TcpStream, packet: &[u8]) {
    stream.write_all(&u16::try_from(packet.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(packet).unwrap();
}

/// Asks a server that does not exist: whoever is asked, the gateway answers.
fn ask(name: &str, kind: u16) -> Vec<u8> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect("9.9.9.9:53").unwrap();
    socket.send(&query(name, kind, 0x1234)).unwrap();
    let mut packet = vec![0; 4096];
    let length = socket.recv(&mut packet).unwrap();
    packet.truncate(length);
    assert_eq!(packet[..2], [0x12, 0x34]);
    packet
}

#[test]
fn names_resolve_through_the_nodes_server() {
    isolated("names_resolve_through_the_nodes_server", || {
        let world = World::new();
        let registered = world.register(everything(), vec![]);
        world.sandbox.run(|| {
            let start = Instant::now();
            assert_eq!(ask("a.example", 1)[3] & 15, 2, "no upstream: SERVFAIL");
            assert!(start.elapsed() < QUICK, "and at once");
            assert!(ask("host.cordium.internal", 1).ends_with(&GATEWAY_V4.octets()));
            assert!(ask("localhost", 1).ends_with(&[127, 0, 0, 1]));
        });
        name_server();
        world.sandbox.run(|| {
            assert!(ask("a.example", 1).ends_with(&[192, 0, 2, 7]));
            assert_eq!(ask("a.example", 28)[7], 0, "the node has no way to it");
            let empty = ask("a.example", 15);
            assert_eq!((empty[3] & 15, empty[7]), (0, 0), "no MX, no error");
            let missing = ask("nx.example", 1);
            assert_eq!((missing[3] & 15, missing[9]), (3, 1), "NXDOMAIN with its SOA");
            assert_eq!(ask("big.example", 16)[2] & 2, 2, "truncated");
            let mut stream = connect("9.9.9.9", 53);
            for _ in 0..2 {
                write_framed(&mut stream, &query("big.example", 16, 9));
                let long = read_framed(&mut stream);
                assert!(long.len() > 4000 && long[7] == 20 && long[2] & 2 == 0, "whole over a stream");
            }
        });
        support::run("ip", &["route", "add", "2001:db8::/32", "dev", "out0"]);
        world.sandbox.run(|| assert!(ask("a.example", 28).ends_with(&[0, 7])));
        drop(registered);
        let _registered = world.register(Policy::default(), vec![]);
        world.sandbox.run(|| assert_eq!(ask("a.example", 1)[3] & 15, 3, "no such name under DENY"));
    });
}
