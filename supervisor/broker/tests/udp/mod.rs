//! Datagrams through a real gateway: what passes and how, what is refused, and what a hostile sandbox sends.

mod flood;
mod hostile;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cordium_broker::{Denial, Protocol, Terms, watch_denials};
use cordium_egress::{Action, DefaultAction, Policy, Protocol as Transport, Rule};

use crate::egress::servers::{name_server, resolve, resolve_v6};
use crate::egress::{hosts, policy, rule};
use crate::support::{NODE, NODE_V6, OUTSIDE, OUTSIDE_V6, PUBLIC, PUBLIC_V6, World, isolated};
use crate::{QUICK, everything, noise};

/// An ALLOW for datagrams.
fn open(hosts: &str, cidrs: &str, ports: &[u16]) -> Rule {
    Rule { protocols: vec![Transport::Udp], ..rule(Action::Allow, hosts, cidrs, ports) }
}

fn only(rules: Vec<Rule>) -> Policy {
    policy(DefaultAction::Deny, rules)
}

fn all() -> Policy {
    only(vec![open("", "0.0.0.0/0 ::/0", &[])])
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Hears the destination and nobody else.
fn client(ip: &str, port: u16) -> UdpSocket {
    let any = if ip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.connect(at(ip, port)).unwrap();
    socket
}

fn echoes(socket: &UdpSocket, bytes: &[u8]) {
    socket.send(bytes).unwrap();
    let mut got = vec![0; 70_000];
    let length = socket.recv(&mut got).unwrap();
    assert!(got[..length] == *bytes, "{length} of {} bytes", bytes.len());
}

/// An ICMP error comes, soon.
fn is_refused(ip: &str, port: u16) {
    let (start, socket) = (Instant::now(), client(ip, port));
    socket.send(b"x").unwrap();
    assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{ip}:{port}");
    assert!(start.elapsed() < QUICK);
}

fn serve(world: &World, ip: &'static str, port: u16) -> UdpSocket {
    let socket = world.outside.run(move || UdpSocket::bind(at(ip, port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

/// Answers each datagram with itself.
fn echo(world: &World, ip: &'static str, port: u16) {
    let socket = serve(world, ip, port);
    socket.set_read_timeout(None).unwrap();
    std::thread::spawn(move || {
        let mut bytes = vec![0; 70_000];
        while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
            let node = [NODE, NODE_V6].map(|node| node.parse::<IpAddr>().unwrap());
            assert!(node.contains(&peer.ip()), "the node sends, not the sandbox");
            drop(socket.send_to(&bytes[..length], peer));
        }
    });
}

/// Nothing has come.
fn is_silent(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing left");
}

fn denials(world: &World) -> Vec<Denial> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut denials = watch_denials(&world.socket(), "ws-test", 0, false).await.unwrap();
        let mut all = Vec::new();
        while let Some(denial) = denials.next().await.unwrap() {
            all.push(denial);
        }
        all
    })
}

#[test]
fn datagrams_of_every_size_pass_both_ways_under_their_own_addresses() {
    isolated("udp::datagrams_of_every_size_pass_both_ways_under_their_own_addresses", || {
        let world = World::new();
        let _registered = world.register(all(), vec![]);
        for address in [OUTSIDE, PUBLIC[0], OUTSIDE_V6, PUBLIC_V6] {
            echo(&world, address, 123);
        }
        world.sandbox.run(|| {
            for address in [OUTSIDE, PUBLIC[0], OUTSIDE_V6, PUBLIC_V6] {
                let socket = client(address, 123);
                for length in [1, 0, 48, 1452, 1453, 1472, 1473, 9_000, 65_507] {
                    echoes(&socket, &noise(length, 7));
                }
            }
            // One socket, many destinations: each answer comes from where it was asked for.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            for address in [OUTSIDE, PUBLIC[0]] {
                socket.send_to(address.as_bytes(), at(address, 123)).unwrap();
                let mut got = [0; 64];
                let (length, peer) = socket.recv_from(&mut got).unwrap();
                assert_eq!((&got[..length], peer), (address.as_bytes(), at(address, 123)));
            }
        });
    });
}

#[test]
fn nothing_passes_that_no_rule_names_and_each_refusal_is_told_and_listed() {
    isolated("udp::nothing_passes_that_no_rule_names_and_each_refusal_is_told_and_listed", || {
        let world = World::new();
        name_server();
        let registered = world.register(everything(), vec![]);
        let servers = [(OUTSIDE, 123), (PUBLIC[0], 443), (PUBLIC_V6, 443), (OUTSIDE, 5353)];
        let servers = servers.map(|(address, port)| serve(&world, address, port));
        let refused = || {
            is_refused(OUTSIDE, 123);
            is_refused(PUBLIC[0], 443);
            is_refused(PUBLIC_V6, 443);
        };
        world.sandbox.run(refused);
        registered.set_policy(&policy(DefaultAction::AllowPublic, vec![])).unwrap();
        world.sandbox.run(refused);
        let narrow = vec![
            open("", "10.77.0.0/24", &[124]),
            open("", "93.184.216.0/24 2a00:1450::/32", &[]),
            rule(Action::Deny, "", "93.184.216.34/32 ::/0", &[443]),
        ];
        registered.set_policy(&only(narrow)).unwrap();
        world.sandbox.run(refused);
        // Questions for names go to the gateway's resolver on port 53 and nowhere else.
        world.sandbox.run(|| {
            is_refused(OUTSIDE, 5353);
            assert_eq!(resolve("one.example"), Err(3));
        });
        servers.iter().for_each(is_silent);

        let all = denials(&world);
        let udp: Vec<_> = all
            .iter()
            .filter(|denial| denial.protocol == Protocol::Udp)
            .map(|denial| (denial.address.unwrap().to_string(), denial.port.unwrap(), denial.rule.as_str()))
            .collect();
        let listed = |address: &str, port, rule| udp.contains(&(address.to_owned(), port, rule));
        assert!(listed(OUTSIDE, 123, "default") && listed(PUBLIC_V6, 443, "rules[2]"), "{udp:?}");
        assert!(listed(OUTSIDE, 5353, "default") && listed(PUBLIC[0], 443, "rules[2]"), "{udp:?}");
        let first = all.iter().find(|denial| denial.protocol == Protocol::Udp).unwrap();
        assert!(first.next.contains("protocols: [UDP]"), "{first:?}");
        let log = world.log();
        assert!(log.contains("protocol=Udp"), "{log}");
    });
}

#[test]
fn a_host_rule_opens_what_its_name_led_to_and_the_same_policy_is_for_tcp_where_it_says_so() {
    isolated(
        "udp::a_host_rule_opens_what_its_name_led_to_and_the_same_policy_is_for_tcp_where_it_says_so",
        || {
            let world = World::new();
            name_server();
            let rules = vec![
                open("one.example six.example", "", &[123]),
                rule(Action::Allow, "two.example", "", &[]),
            ];
            let _registered = world.register(only(rules), vec![]);
            for (address, port) in [(PUBLIC[0], 123), (PUBLIC[1], 123), (PUBLIC_V6, 123), (PUBLIC[0], 124)] {
                echo(&world, address, port);
            }
            world.sandbox.run(|| {
                is_refused(PUBLIC[0], 123);
                assert_eq!(resolve("one.example").as_deref(), Ok(PUBLIC[0]));
                echoes(&client(PUBLIC[0], 123), b"by name");
                is_refused(PUBLIC[0], 124);
                crate::is_reset(PUBLIC[0], 123);
                is_refused(PUBLIC_V6, 123);
                assert_eq!(resolve_v6("six.example").as_deref(), Ok(PUBLIC_V6));
                echoes(&client(PUBLIC_V6, 123), b"by name");
                // Allowed, over TCP.
                assert_eq!(resolve("two.example").as_deref(), Ok(PUBLIC[1]));
                is_refused(PUBLIC[1], 123);
            });
            let rules: Vec<String> = denials(&world)
                .into_iter()
                .filter(|denial| denial.protocol == Protocol::Udp)
                .map(|denial| denial.rule)
                .collect();
            assert!(rules.contains(&"host-name".to_owned()), "{rules:?}");
        },
    );
}

#[test]
fn a_new_policy_ends_what_it_does_not_allow_and_leaves_the_rest() {
    isolated("udp::a_new_policy_ends_what_it_does_not_allow_and_leaves_the_rest", || {
        let world = World::new();
        let registered = world.register(all(), vec![]);
        let server = serve(&world, PUBLIC[0], 7);
        echo(&world, OUTSIDE, 7);
        let (stays, goes) = world.sandbox.run(|| (client(PUBLIC[0], 7), client(OUTSIDE, 7)));
        echoes(&goes, b"one");
        stays.send(b"one").unwrap();
        let (_, before) = server.recv_from(&mut [0; 8]).unwrap();
        registered.set_policy(&only(vec![open("", "93.184.216.34/32", &[])])).unwrap();
        // Told without asking.
        let start = Instant::now();
        assert_eq!(goes.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(start.elapsed() < QUICK);
        goes.send(b"two").unwrap();
        assert_eq!(goes.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        stays.send(b"two").unwrap();
        let (_, after) = server.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(before, after, "the same flow");
        server.send_to(b"answer", after).unwrap();
        assert_eq!(stays.recv(&mut [0; 8]).unwrap(), 6);
        let ended = denials(&world).into_iter().find(|denial| denial.protocol == Protocol::Udp).unwrap();
        assert_eq!((ended.address.unwrap().to_string().as_str(), ended.rule.as_str()), (OUTSIDE, "default"));
        registered.set_policy(&all()).unwrap();
        echoes(&goes, b"three");
    });
}

#[test]
fn only_the_destination_is_heard_and_what_it_refuses_is_told() {
    isolated("udp::only_the_destination_is_heard_and_what_it_refuses_is_told", || {
        let world = World::new();
        let _registered = world.register(all(), vec![]);
        let server = serve(&world, PUBLIC[0], 123);
        let client = world.sandbox.run(|| client(PUBLIC[0], 123));
        client.send(b"x").unwrap();
        let (_, peer) = server.recv_from(&mut [0; 8]).unwrap();
        // From another address, and from another port of the same.
        for (address, port) in [(PUBLIC[1], 123), (OUTSIDE, 123), (PUBLIC[0], 124)] {
            serve(&world, address, port).send_to(b"forged", peer).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        server.send_to(b"real", peer).unwrap();
        let mut got = [0; 16];
        let length = client.recv(&mut got).unwrap();
        assert_eq!(&got[..length], b"real");
        is_silent(&client);
        world.sandbox.run(|| [OUTSIDE, OUTSIDE_V6].map(|address| is_refused(address, 9)));
    });
}

#[test]
fn a_host_with_a_credential_has_no_datagrams() {
    isolated("udp::a_host_with_a_credential_has_no_datagrams", || {
        let world = World::new();
        name_server();
        let terms = Policy {
            rules: vec![open("one.example two.example", "", &[]), open("", "0.0.0.0/0", &[])],
            ..hosts("")
        };
        let registered = world.register(terms.clone(), vec![]);
        PUBLIC.iter().for_each(|address| echo(&world, address, 443));
        let sockets = world.sandbox.run(|| {
            resolve("one.example").unwrap();
            resolve("two.example").unwrap();
            let sockets = PUBLIC.map(|address| client(address, 443));
            sockets.iter().for_each(|socket| echoes(socket, b"quic"));
            sockets
        });
        let authority = cordium_broker::Authority::generate("ws-test").unwrap();
        let bindings = vec![crate::inspect::binding("token", "one.example")];
        let credentials = cordium_broker::Credentials { authority, extra_roots: vec![], bindings };
        registered
            .set_policy(Terms { policy: &terms, credentials: Some(&credentials), services: None })
            .unwrap();
        assert_eq!(sockets[0].recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        world.sandbox.run(|| is_refused(PUBLIC[0], 443));
        echoes(&sockets[1], b"quic");
        assert!(denials(&world).iter().any(|denial| denial.rule == "credential"));
    });
}
