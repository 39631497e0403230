//! Plain HTTP, protocols without names, and what a refused client is told.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use cordium_egress::{Action, DefaultAction, Policy};

use super::servers::{denial, get, http_server, name_server, resolve, say, serve};
use super::{hosts, policy, rule};
use crate::support::{OUTSIDE, PUBLIC, World, isolated};
use crate::{QUICK, connect, is_reset};

#[test]
fn a_host_rule_opens_the_addresses_that_its_names_led_to_and_no_others() {
    isolated("egress::http::a_host_rule_opens_the_addresses_that_its_names_led_to_and_no_others", || {
        let world = World::new();
        name_server();
        http_server(&world, 80);
        let _registered = world.register(hosts("one.example"), vec![]);
        world.sandbox.run(|| {
            let before = denial(get(PUBLIC[0], 80, "one.example"));
            assert_eq!(before["rule"], "host-name", "an address that no name led to: {before}");
            assert_eq!(resolve("one.example").as_deref(), Ok(PUBLIC[0]));
            assert!(get(PUBLIC[0], 80, "one.example").unwrap().ends_with("served one.example"));
            assert!(get(PUBLIC[0], 80, "ONE.example:80").unwrap().starts_with("HTTP/1.1 200"));
            assert_eq!(denial(get(PUBLIC[1], 80, "one.example"))["address"], PUBLIC[1]);
        });
    });
}

#[test]
fn a_request_for_another_host_at_an_allowed_address_is_told_403() {
    isolated("egress::http::a_request_for_another_host_at_an_allowed_address_is_told_403", || {
        let world = World::new();
        name_server();
        http_server(&world, 80);
        http_server(&world, 9999);
        let _registered = world.register(hosts("one.example"), vec![]);
        world.sandbox.run(|| {
            resolve("one.example").unwrap();
            for port in [80, 9999] {
                let denial = denial(get(PUBLIC[0], port, "evil.example"));
                assert_eq!(denial["error"], "egress denied");
                assert_eq!((&denial["host"], &denial["port"]), (&"evil.example".into(), &port.into()));
                assert!(denial["next"].as_str().unwrap().len() > 10, "{denial}");
            }
            for request in [
                "GET / HTTP/1.1\r\nHost: one.example\r\nHost: evil.example\r\n\r\n",
                "GET http://evil.example/ HTTP/1.1\r\nHost: one.example\r\n\r\n",
                "CONNECT evil.example:443 HTTP/1.1\r\nHost: one.example\r\n\r\n",
                "GET / HTTP/1.1\nHost: evil.example\n\n",
                "GET / HTTP/1.0\r\n\r\n",
            ] {
                assert_eq!(
                    denial(say(PUBLIC[0], 80, request.as_bytes()))["rule"],
                    "host-name",
                    "{request:?}"
                );
            }
            let prior = say(PUBLIC[0], 80, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            assert_eq!(prior, Err(ErrorKind::ConnectionReset));
        });
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_and_a_protocol_without_names_passes_by_the_pinned_one() {
    isolated(
        "egress::http::a_server_that_speaks_first_is_heard_and_a_protocol_without_names_passes_by_the_pinned_one",
        || {
            let world = World::new();
            name_server();
            serve(&world, 22, |mut stream| {
                stream.write_all(b"SSH-2.0-server\r\n").unwrap();
                let mut line = [0; 16];
                stream.read_exact(&mut line).unwrap();
                stream.write_all(&line).unwrap();
            });
            let _registered = world.register(hosts("one.example"), vec![]);
            world.sandbox.run(|| {
                resolve("one.example").unwrap();
                let mut stream = connect(PUBLIC[0], 22);
                let mut banner = [0; 16];
                stream.read_exact(&mut banner).unwrap();
                assert_eq!(&banner, b"SSH-2.0-server\r\n");
                stream.write_all(b"SSH-2.0-client\r\n").unwrap();
                stream.read_exact(&mut banner).unwrap();
                assert_eq!(&banner, b"SSH-2.0-client\r\n");
            });
        },
    );
}

#[test]
fn a_first_message_that_stays_incomplete_is_denied_and_nothing_of_it_leaves() {
    isolated(
        "egress::http::a_first_message_that_stays_incomplete_is_denied_and_nothing_of_it_leaves",
        || {
            let world = World::new();
            name_server();
            let server = crate::listen(&world, 80);
            let _registered = world.register(hosts("one.example"), vec![]);
            let client = world.sandbox.spawn(|| {
                resolve("one.example").unwrap();
                let start = Instant::now();
                let denial = denial(say(PUBLIC[0], 80, b"GET / HTTP/1.1\r\nHost: one.exa"));
                assert!(start.elapsed() > Duration::from_secs(9));
                assert!(denial["reason"].as_str().unwrap().contains("10 s"), "{denial}");
            });
            let (mut stream, _) = server.accept().unwrap();
            let mut got = Vec::new();
            // It is dialled, and then reset without a byte.
            assert_eq!(stream.read_to_end(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert!(got.is_empty());
            client.join();
        },
    );
}

#[test]
fn a_refused_client_that_speaks_http_is_told_why_and_others_are_reset_at_once() {
    isolated(
        "egress::http::a_refused_client_that_speaks_http_is_told_why_and_others_are_reset_at_once",
        || {
            let world = World::new();
            let _registered = world.register(Policy::default(), vec![]);
            world.sandbox.run(|| {
                for port in [80, 8080, 8000, 3128] {
                    let denial = denial(get(OUTSIDE, port, "one.example"));
                    assert_eq!((&denial["rule"], &denial["port"]), (&"default".into(), &port.into()));
                }
                is_reset(OUTSIDE, 443);
                is_reset(OUTSIDE, 22);
                let start = Instant::now();
                assert_eq!(say(OUTSIDE, 80, b"\x00binary"), Err(ErrorKind::ConnectionReset));
                assert_eq!(get(OUTSIDE, 5432, "one.example"), Err(ErrorKind::ConnectionReset));
                assert!(start.elapsed() < QUICK);
            });
        },
    );
}

#[test]
fn deny_beats_allow_and_the_dimensions_of_a_rule_are_all_needed() {
    isolated("egress::http::deny_beats_allow_and_the_dimensions_of_a_rule_are_all_needed", || {
        let world = World::new();
        for port in [80, 8080] {
            http_server(&world, port);
        }
        let rules = vec![
            rule(Action::Allow, "", "10.77.0.0/24", &[80, 8080]),
            rule(Action::Deny, "", "10.77.0.2/32", &[8080]),
            rule(Action::Allow, "", "93.184.216.34/32", &[80]),
        ];
        let _registered = world.register(policy(DefaultAction::Deny, rules), vec![]);
        world.sandbox.run(|| {
            assert!(get(OUTSIDE, 80, "x").unwrap().ends_with("served x"), "no name is asked for");
            assert_eq!(denial(get(OUTSIDE, 8080, "x"))["rule"], "rules[1]");
            assert!(get(PUBLIC[0], 80, "x").unwrap().ends_with("served x"));
            assert_eq!(denial(get(PUBLIC[0], 8080, "x"))["rule"], "default");
            assert_eq!(denial(get(PUBLIC[1], 80, "x"))["rule"], "default");
        });
    });
}

#[test]
fn allow_public_reaches_public_addresses_only_and_protected_networks_stay_closed() {
    isolated(
        "egress::http::allow_public_reaches_public_addresses_only_and_protected_networks_stay_closed",
        || {
            let world = World::new();
            http_server(&world, 80);
            let mut open =
                policy(DefaultAction::AllowPublic, vec![rule(Action::Allow, "", "0.0.0.0/0", &[81])]);
            let registered = world.register(open.clone(), vec![]);
            world.sandbox.run(|| {
                assert!(get(PUBLIC[0], 80, "x").unwrap().ends_with("served x"));
                assert_eq!(denial(get(OUTSIDE, 80, "x"))["rule"], "default");
            });
            open.protected = vec!["93.184.216.34/32".into()];
            open.rules.push(rule(Action::Allow, "", "93.184.216.34/32", &[80]));
            registered.set_policy(&open).unwrap();
            world.sandbox.run(|| {
                assert_eq!(denial(get(PUBLIC[0], 80, "x"))["rule"], "protectedNetworks[0]");
                assert!(get(PUBLIC[1], 80, "x").unwrap().ends_with("served x"));
            });
        },
    );
}
