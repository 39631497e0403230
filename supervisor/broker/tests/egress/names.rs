//! What may be resolved, and where a name may lead.

use std::sync::atomic::Ordering;

use cordium_egress::{Action, DefaultAction};

use super::servers::{denial, get, http_server, is_untouched, name_server, resolve};
use super::{hosts, policy, rule};
use crate::support::{OUTSIDE, PUBLIC, World, isolated};

const NXDOMAIN: u8 = 3;

#[test]
fn under_deny_only_names_of_rules_resolve_and_no_server_is_asked_for_others() {
    isolated(
        "egress::names::under_deny_only_names_of_rules_resolve_and_no_server_is_asked_for_others",
        || {
            let world = World::new();
            let asked = name_server();
            let _registered = world.register(hosts("one.example *.wild.example"), vec![]);
            world.sandbox.run(|| {
                for name in [
                    "two.example",
                    "wild.example",
                    "data.one.example",
                    "one.example.evil.example",
                    "xone.example",
                ] {
                    assert_eq!(resolve(name), Err(NXDOMAIN), "{name}");
                }
            });
            assert_eq!(asked.load(Ordering::SeqCst), 0, "a question is a way out");
            world.sandbox.run(|| {
                assert_eq!(resolve("ONE.example").as_deref(), Ok(PUBLIC[0]));
                assert_eq!(resolve("a.wild.example").as_deref(), Ok(PUBLIC[0]));
            });
            assert_eq!(asked.load(Ordering::SeqCst), 2);
        },
    );
}

#[test]
fn a_deny_rule_of_hosts_alone_hides_the_names_also_where_all_others_resolve() {
    isolated(
        "egress::names::a_deny_rule_of_hosts_alone_hides_the_names_also_where_all_others_resolve",
        || {
            let world = World::new();
            name_server();
            let rules = vec![
                rule(Action::Deny, "evil.example", "", &[]),
                rule(Action::Deny, "two.example", "", &[25]),
            ];
            let _registered = world.register(policy(DefaultAction::AllowPublic, rules), vec![]);
            world.sandbox.run(|| {
                assert_eq!(resolve("evil.example"), Err(NXDOMAIN));
                assert_eq!(resolve("one.example").as_deref(), Ok(PUBLIC[0]));
                assert_eq!(resolve("two.example").as_deref(), Ok(PUBLIC[1]), "another port of it is open");
            });
        },
    );
}

#[test]
fn a_name_that_leads_to_the_node_to_metadata_or_to_a_private_network_reaches_nothing() {
    isolated(
        "egress::names::a_name_that_leads_to_the_node_to_metadata_or_to_a_private_network_reaches_nothing",
        || {
            let world = World::new();
            name_server();
            let _registered = world.register(hosts("*.example"), vec![]);
            let node = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
            let private = crate::listen(&world, 8080);
            world.sandbox.run(|| {
                for (name, rule) in [
                    ("node.example", "node"),
                    ("metadata.example", "link-local"),
                    ("gateway.example", "host-ports"),
                    ("private.example", "rules[0]"),
                ] {
                    let address = resolve(name).unwrap();
                    let denial = denial(get(&address, 8080, name));
                    assert_eq!(
                        (denial["rule"].as_str(), denial["port"].as_u64()),
                        (Some(rule), Some(8080)),
                        "{denial}"
                    );
                }
            });
            is_untouched(&node);
            is_untouched(&private);
        },
    );
}

#[test]
fn a_private_address_is_reached_by_name_when_the_rule_says_its_network() {
    isolated("egress::names::a_private_address_is_reached_by_name_when_the_rule_says_its_network", || {
        let world = World::new();
        name_server();
        http_server(&world, 80);
        let rules = vec![rule(Action::Allow, "private.example", "10.77.0.0/24", &[80])];
        let _registered = world.register(policy(DefaultAction::Deny, rules), vec![]);
        world.sandbox.run(|| {
            assert_eq!(denial(get(OUTSIDE, 80, "private.example"))["rule"], "default", "not resolved yet");
            assert_eq!(resolve("private.example").as_deref(), Ok(OUTSIDE));
            assert!(get(OUTSIDE, 80, "private.example").unwrap().ends_with("served private.example"));
        });
    });
}
