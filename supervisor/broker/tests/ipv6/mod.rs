//! IPv6 through a real gateway: what passes, what is protected, and every way in which a packet may try to pass the rules.

mod packets;
mod refused;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown};

use cordium_egress::{Action, DefaultAction};

use crate::egress::servers::{denial, get, http_server, name_server, resolve, resolve_v6};
use crate::egress::{hosts, policy, rule};
use crate::support::{NODE_V6, OUTSIDE_V6, PUBLIC, PUBLIC_V6, World, isolated};
use crate::{connect, everything, is_reset, listen, noise};

#[test]
fn a_flow_passes_both_ways_and_ends_with_a_policy_that_denies_it() {
    isolated("ipv6::a_flow_passes_both_ways_and_ends_with_a_policy_that_denies_it", || {
        const SIZE: usize = 8 << 20;
        let world = World::new();
        let registered = world.register(everything(), vec![]);
        let server = listen(&world, 80);
        let client = world.sandbox.spawn(|| {
            let mut stream = connect(OUTSIDE_V6, 80);
            stream.write_all(&noise(SIZE, 1)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut got = Vec::new();
            stream.read_to_end(&mut got).unwrap();
            assert!(got == noise(SIZE, 2), "the download is whole");
        });
        let (mut stream, peer) = server.accept().unwrap();
        assert_eq!(peer.ip(), NODE_V6.parse::<IpAddr>().unwrap(), "the node dials, not the sandbox");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == noise(SIZE, 1), "the upload is whole");
        stream.write_all(&noise(SIZE, 2)).unwrap();
        drop(stream);
        client.join();

        let [mut stays, mut goes] =
            [PUBLIC_V6, OUTSIDE_V6].map(|address| world.sandbox.run(move || connect(address, 80)));
        let served: Vec<_> = (0..2).map(|_| server.accept().unwrap().0).collect();
        let narrow = policy(DefaultAction::Deny, vec![rule(Action::Allow, "", "2a00:1450::/32", &[])]);
        registered.set_policy(&narrow).unwrap();
        assert_eq!(goes.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        world.sandbox.run(|| is_reset(OUTSIDE_V6, 80));
        stays.write_all(b"x").unwrap();
        for mut stream in served {
            if stream.local_addr().unwrap().ip() == PUBLIC_V6.parse::<IpAddr>().unwrap() {
                stream.read_exact(&mut [0]).unwrap();
            }
        }
    });
}

#[test]
fn a_host_rule_opens_the_ipv6_address_that_its_name_led_to() {
    isolated("ipv6::a_host_rule_opens_the_ipv6_address_that_its_name_led_to", || {
        let world = World::new();
        name_server();
        http_server(&world, 80);
        let _registered = world.register(hosts("six.example"), vec![]);
        world.sandbox.run(|| {
            assert_eq!(denial(get(PUBLIC_V6, 80, "six.example"))["rule"], "host-name", "not resolved yet");
            assert_eq!(resolve_v6("six.example").as_deref(), Ok(PUBLIC_V6));
            assert!(get(PUBLIC_V6, 80, "six.example").unwrap().ends_with("served six.example"));
            let other = denial(get(PUBLIC_V6, 80, "evil-six.example"));
            assert_eq!((&other["rule"], &other["address"]), (&"host-name".into(), &PUBLIC_V6.into()));
        });
    });
}

/// A client that is told of an address without a way would be taken by the gateway and then reset, and not try the next.
#[test]
fn an_address_without_a_way_is_not_told_and_a_connection_to_it_ends_at_once() {
    isolated("ipv6::an_address_without_a_way_is_not_told_and_a_connection_to_it_ends_at_once", || {
        let world = World::new();
        name_server();
        let _registered = world.register(everything(), vec![]);
        world.sandbox.run(|| {
            assert_eq!(resolve_v6("lost.example"), Err(0), "an empty answer, not an error");
            assert_eq!(resolve("lost.example").as_deref(), Ok(PUBLIC[0]));
            assert_eq!(resolve_v6("one.example").as_deref(), Ok(PUBLIC_V6));
            assert_eq!(resolve_v6("none.example"), Err(3));
            is_reset("2a00:1450::99", 443);
        });
        crate::support::run("ip", &["route", "add", "2a00:1450::/32", "via", OUTSIDE_V6]);
        world.sandbox.run(|| assert_eq!(resolve_v6("lost.example").as_deref(), Ok("2a00:1450::99")));
    });
}
