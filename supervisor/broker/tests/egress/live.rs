//! A new policy while flows are open, and watching what is denied.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use cordium_broker::{Denial, Denials, Protocol, watch_denials};
use cordium_egress::{Action, DefaultAction, Policy};

use super::servers::{get, http_server, name_server, resolve, serve};
use super::{hosts, policy, rule};
use crate::support::{OUTSIDE, PUBLIC, World, isolated};
use crate::{connect, everything, is_reset};

fn echo(mut stream: TcpStream) {
    let mut word = [0; 4];
    while stream.read_exact(&mut word).is_ok() && stream.write_all(&word).is_ok() {}
}

fn lives(stream: &mut TcpStream) {
    let mut word = [0; 4];
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"ping");
}

fn is_closed(stream: &mut TcpStream) {
    let start = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(start.elapsed() < crate::QUICK);
}

#[test]
fn a_new_policy_closes_what_it_does_not_allow_and_leaves_the_rest_open() {
    isolated("egress::live::a_new_policy_closes_what_it_does_not_allow_and_leaves_the_rest_open", || {
        let world = World::new();
        serve(&world, 7, echo);
        let allow = |cidr: &str| policy(DefaultAction::Deny, vec![rule(Action::Allow, "", cidr, &[])]);
        let registered = world.register(everything(), vec![]);
        let (mut stays, mut goes) = world.sandbox.run(|| (connect(PUBLIC[0], 7), connect(OUTSIDE, 7)));
        lives(&mut stays);
        lives(&mut goes);
        registered.set_policy(&allow("93.184.216.34/32")).unwrap();
        is_closed(&mut goes);
        lives(&mut stays);
        world.sandbox.run(|| is_reset(OUTSIDE, 7));
        registered.set_policy(&allow("10.77.0.0/24")).unwrap();
        is_closed(&mut stays);
        lives(&mut world.sandbox.run(|| connect(OUTSIDE, 7)));
    });
}

#[test]
fn open_flows_are_decided_again_by_the_name_that_they_have_said() {
    isolated("egress::live::open_flows_are_decided_again_by_the_name_that_they_have_said", || {
        let world = World::new();
        name_server();
        serve(&world, 80, echo);
        let registered = world.register(hosts("one.example evil.example"), vec![]);
        let open = |host: &'static str| {
            let mut stream = world.sandbox.run(move || {
                resolve(host).unwrap();
                connect(PUBLIC[0], 80)
            });
            let head =
                format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "x".repeat(4 - (26 + host.len()) % 4));
            assert_eq!(head.len() % 4, 0);
            stream.write_all(head.as_bytes()).unwrap();
            stream.read_exact(&mut vec![0; head.len()]).unwrap();
            stream
        };
        let (mut one, mut evil) = (open("one.example"), open("evil.example"));
        let mut silent = world.sandbox.run(|| connect(PUBLIC[0], 80));
        registered.set_policy(&hosts("one.example")).unwrap();
        is_closed(&mut evil);
        lives(&mut one);
        // One that has said nothing yet is decided by what it will say, under the new policy.
        silent.write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap();
        let mut text = String::new();
        silent.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
        lives(&mut one);
        // What was let through without being asked for a name cannot be known under a policy of names.
        registered.set_policy(&everything()).unwrap();
        let mut unasked = world.sandbox.run(|| connect(PUBLIC[0], 80));
        lives(&mut unasked);
        registered.set_policy(&hosts("one.example")).unwrap();
        is_closed(&mut unasked);
        lives(&mut one);
    });
}

#[test]
fn a_policy_that_is_refused_changes_nothing_and_says_why() {
    isolated("egress::live::a_policy_that_is_refused_changes_nothing_and_says_why", || {
        let world = World::new();
        http_server(&world, 80);
        let registered = world.register(everything(), vec![]);
        let bad = policy(DefaultAction::Deny, vec![rule(Action::Allow, "", "10.0.0.0/99", &[])]);
        let error = registered.set_policy(&bad).unwrap_err();
        assert!(error.is_refusal() && error.to_string().contains("rules[0].cidrs[0]"), "{error}");
        let rule = rule(Action::Allow, &"x".repeat(60), "", &[]);
        let long = policy(DefaultAction::Deny, vec![rule; 20_000]);
        assert!(registered.set_policy(&long).unwrap_err().is_refusal());
        world.sandbox.run(|| assert!(get(OUTSIDE, 80, "x").unwrap().ends_with("served x")));
        registered.set_policy(&Policy::default()).unwrap();
        world.sandbox.run(|| is_reset(OUTSIDE, 22));
    });
}

async fn next(denials: &mut Denials) -> Option<Denial> {
    tokio::time::timeout(Duration::from_secs(10), denials.next()).await.unwrap().unwrap()
}

#[test]
fn denials_are_kept_numbered_and_watched_until_the_workspace_ends() {
    isolated("egress::live::denials_are_kept_numbered_and_watched_until_the_workspace_ends", || {
        let world = World::new();
        name_server();
        let registered = world.register(hosts("one.example"), vec![]);
        world.sandbox.run(|| {
            resolve("two.example").unwrap_err();
            is_reset(OUTSIDE, 22);
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let socket = world.socket();
            let mut past = watch_denials(&socket, "ws-test", 0, false).await.unwrap();
            let dns = next(&mut past).await.unwrap();
            assert_eq!(
                (dns.protocol, dns.names, dns.address),
                (Protocol::Dns, vec!["two.example".to_owned()], None)
            );
            let tcp = next(&mut past).await.unwrap();
            assert_eq!((tcp.protocol, tcp.port, tcp.rule.as_str()), (Protocol::Tcp, Some(22), "default"));
            assert_eq!(
                (tcp.address.unwrap().to_string(), tcp.workspace.as_str()),
                (OUTSIDE.into(), "ws-test")
            );
            assert!(tcp.number > dns.number && tcp.time_millis >= dns.time_millis);
            assert!(next(&mut past).await.is_none());

            let mut new = watch_denials(&socket, "ws-test", dns.number, true).await.unwrap();
            assert_eq!(next(&mut new).await.unwrap(), tcp);
            world.sandbox.run(|| is_reset(OUTSIDE, 443));
            assert_eq!(next(&mut new).await.unwrap().port, Some(443));
            drop(registered);
            assert!(next(&mut new).await.is_none(), "the end of the workspace");
            let mut none = watch_denials(&socket, "nobody", 0, true).await.unwrap();
            let error = none.next().await.unwrap_err().to_string();
            assert!(error.contains("nobody"), "{error}");
        });
    });
}
