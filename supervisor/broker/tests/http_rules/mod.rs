//! Rules by method and path: real servers of HTTP and HTTPS behind a real gateway, and each request decided for itself.

mod programs;
mod tricks;

use std::time::Duration;

use bytes::Bytes;
use cordium_broker::{Authority, Binding, Credentials, Registered, Terms};
use cordium_egress::{Action, Policy, Rule};
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::egress::servers::{denial, name_server, resolve, say};
use crate::egress::{hosts, policy, rule};
use crate::inspect::client::{Raw, http2};
use crate::inspect::server::Server;
use crate::inspect::{PLACEHOLDER, VALUE, binding};
use crate::support::{PUBLIC, World, isolated};

/// A server on ports 80 and 443, and a workspace that has this policy and an authority.
struct Ruled {
    world: World,
    server: Server,
    credentials: Credentials,
    registered: Registered,
}

impl Ruled {
    fn new(policy: Policy, bindings: Vec<Binding>) -> Self {
        let world = World::new();
        name_server();
        let server = Server::start(&world);
        server.plain(&world, 80);
        let authority = Authority::generate("ws-test").unwrap();
        let credentials = Credentials { authority, extra_roots: vec![server.certificate.clone()], bindings };
        let registered = world.register_with(policy, Some(credentials.clone()), vec![]);
        Self { world, server, credentials, registered }
    }

    fn authority(&self) -> String {
        self.credentials.authority.certificate.clone()
    }

    fn set(&self, policy: &Policy) {
        self.registered
            .set_policy(Terms { policy, credentials: Some(&self.credentials), services: None })
            .unwrap();
    }
}

fn requests(action: Action, hosts: &str, methods: &[&str], paths: &[&str]) -> Rule {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Rule { methods: own(methods), paths: own(paths), ..rule(action, hosts, "", &[]) }
}

/// Reading below `/acme` of `one.example`, and all of `two.example`.
fn reading() -> Policy {
    let read = Rule {
        name: Some("read".into()),
        ..requests(Action::Allow, "one.example", &["GET", "HEAD"], &["/acme"])
    };
    policy(cordium_egress::DefaultAction::Deny, vec![read, rule(Action::Allow, "two.example", "", &[])])
}

/// Everything but `/admin` of `one.example`.
fn but_admin() -> Policy {
    let admin =
        Rule { name: Some("admin".into()), ..requests(Action::Deny, "one.example", &[], &["/admin"]) };
    policy(cordium_egress::DefaultAction::AllowPublic, vec![admin])
}

fn json(body: &str) -> serde_json::Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn uris(server: &Server) -> Vec<String> {
    server.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.uri)).collect()
}

#[test]
fn each_request_of_a_connection_is_decided() {
    isolated("http_rules::each_request_of_a_connection_is_decided", || {
        let ruled = Ruled::new(reading(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        let (asker, seen) = (authority.clone(), server.clone());
        ruled.world.sandbox.run(move || {
            for mut raw in [Raw::plain("one.example", 80), Raw::open("one.example", &asker)] {
                let mut ask = |line: &str| {
                    raw.ask(&format!("{line} HTTP/1.1\r\nHost: one.example\r\nContent-Length: 0\r\n\r\n"))
                };
                assert_eq!(ask("GET /acme/x?y=/z").1, "served ");
                let (head, body) = ask("PUT /acme/x?secret=1");
                assert!(head.starts_with("http/1.1 403") && head.contains("application/json"), "{head}");
                let body = json(&body);
                assert_eq!((&body["error"], &body["rule"]), (&"egress denied".into(), &"default".into()));
                assert_eq!((&body["method"], &body["path"]), (&"PUT".into(), &"/acme/x".into()), "{body}");
                assert_eq!(body["host"], "one.example");
                assert!(body["next"].as_str().unwrap().contains("cordium policy set"), "{body}");
                assert_eq!(ask("GET /acme").1, "served ", "the connection stays");
                assert!(ask("GET /acmeevil").0.starts_with("http/1.1 403"));
                // All at once.
                let one = "GET /acme/1 HTTP/1.1\r\nHost: one.example\r\n\r\n";
                let two = "POST /acme/2 HTTP/1.1\r\nHost: one.example\r\nContent-Length: 4\r\n\r\nbody";
                let three = "GET /acme/3 HTTP/1.1\r\nHost: evil.example\r\n\r\n";
                raw.write(format!("{one}{two}{one}{three}").as_bytes());
                let heads: Vec<String> = (0..4).map(|_| raw.answer().unwrap().0[9..12].to_owned()).collect();
                assert_eq!(heads, ["200", "403", "200", "403"]);
                assert_eq!(uris(&seen), ["GET /acme/x?y=/z", "GET /acme", "GET /acme/1", "GET /acme/1"]);
            }
            let ask = |path: &str| {
                Request::get(format!("https://one.example{path}")).body(Full::<Bytes>::default()).unwrap()
            };
            let answers = http2("one.example", &asker, vec![ask("/acme/2"), ask("/else"), ask("/acme/../x")]);
            let status: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap().status()).collect();
            assert_eq!(status, [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::FORBIDDEN]);
            let reason =
                json(std::str::from_utf8(answers[2].as_ref().unwrap().body()).unwrap())["reason"].clone();
            assert!(reason.as_str().unwrap().contains("'..'"), "{reason}");
            assert_eq!(uris(&seen), ["GET https://one.example/acme/2"]);
            // A host without such rules passes untouched: the server's own certificate is what the client sees.
            let mut other = Raw::open("two.example", &seen.certificate);
            assert_eq!(other.ask("DELETE /x HTTP/1.1\r\nHost: two.example\r\n\r\n").1, "served ");
        });
        let log = ruled.world.log();
        assert!(log.contains("egress denied") && !log.contains("secret"), "{log}");
    });
}

#[test]
fn a_deny_by_request_is_for_these_requests_only() {
    isolated("http_rules::a_deny_by_request_is_for_these_requests_only", || {
        let ruled = Ruled::new(but_admin(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            for mut raw in [Raw::plain("one.example", 80), Raw::open("one.example", &authority)] {
                let mut ask = |line: &str, header: &str| {
                    let (head, body) =
                        raw.ask(&format!("{line} HTTP/1.1\r\nHost: one.example\r\n{header}\r\n"));
                    if head.starts_with("http/1.1 403") {
                        json(&body)["rule"].as_str().unwrap().to_owned()
                    } else {
                        body
                    }
                };
                assert_eq!(ask("DELETE /x", ""), "served ");
                assert_eq!(ask("GET /admin/x", ""), "admin");
                assert_eq!(ask("GET /administrator", ""), "served ");
                assert_eq!(
                    ask("GET /x", "X-Original-URL: /admin\r\n"),
                    "admin",
                    "what some servers take instead"
                );
                assert_eq!(ask("GET /x", "X-Rewrite-URL: /%61dmin?y\r\n"), "admin");
                assert_eq!(uris(&server).len(), 2);
            }
        });
    });
}

#[test]
fn a_new_policy_is_that_of_the_next_request() {
    isolated("http_rules::a_new_policy_is_that_of_the_next_request", || {
        let ruled = Ruled::new(reading(), vec![]);
        let authority = ruled.authority();
        let certificate = ruled.server.certificate.clone();
        let (mut plain, mut tls, mut other) = ruled.world.sandbox.run(move || {
            let other = Raw::open("two.example", &certificate);
            (Raw::plain("one.example", 80), Raw::open("one.example", &authority), other)
        });
        let code = |raw: &mut Raw, line: &str| {
            raw.ask(&format!("{line} HTTP/1.1\r\nHost: one.example\r\n\r\n")).0[9..12].to_owned()
        };
        for raw in [&mut plain, &mut tls] {
            assert_eq!((code(raw, "GET /acme"), code(raw, "GET /else")), ("200".into(), "403".into()));
        }
        other.ask("GET / HTTP/1.1\r\nHost: two.example\r\n\r\n");
        let all = "one.example two.example";
        let turned = policy(
            cordium_egress::DefaultAction::Deny,
            vec![rule(Action::Allow, all, "", &[]), requests(Action::Deny, all, &[], &["/acme"])],
        );
        ruled.set(&turned);
        for raw in [&mut plain, &mut tls] {
            assert_eq!((code(raw, "GET /acme"), code(raw, "GET /else")), ("403".into(), "200".into()));
        }
        assert!(other.ends(), "nobody has seen its requests so far");
        // Without such rules what is open stays open.
        ruled.set(&hosts(all));
        for raw in [&mut plain, &mut tls] {
            assert_eq!(code(raw, "GET /acme"), "200");
        }
        ruled.set(&hosts("two.example"));
        for raw in [&mut plain, &mut tls] {
            assert!(raw.ends());
        }
    });
}

#[test]
fn what_is_not_http_is_refused_where_requests_are_decided() {
    isolated("http_rules::what_is_not_http_is_refused_where_requests_are_decided", || {
        let ruled = Ruled::new(reading(), vec![]);
        let server = ruled.server.clone();
        ruled.world.sandbox.run(move || {
            resolve("one.example").unwrap();
            for bytes in [
                &b"SSH-2.0-x\r\n"[..],
                b"\x00\x01\x02\x03",
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"GET / HTTP/1.1\nHost: one.example\n\n",
            ] {
                match say(PUBLIC[0], 80, bytes) {
                    Ok(answer) => assert!(answer.starts_with("HTTP/1.1 403"), "{bytes:?}: {answer}"),
                    Err(error) => assert_eq!(error, std::io::ErrorKind::ConnectionReset, "{bytes:?}"),
                }
            }
            let unnamed = denial(say(PUBLIC[0], 80, b"GET /acme HTTP/1.1\r\nHost: evil.example\r\n\r\n"));
            assert_eq!(unnamed["rule"], "host-name");
            assert!(server.seen().is_empty());
        });
        assert!(ruled.world.log().contains("the connection is not HTTP"), "{}", ruled.world.log());
    });
}

#[test]
fn a_run_without_an_authority_gets_no_tls_there_and_is_told_why() {
    isolated("http_rules::a_run_without_an_authority_gets_no_tls_there_and_is_told_why", || {
        let world = World::new();
        name_server();
        let server = Server::start(&world);
        server.plain(&world, 80);
        let _registered = world.register(reading(), vec![]);
        let certificate = server.certificate.clone();
        world.sandbox.run(move || {
            let mut raw = Raw::plain("one.example", 80);
            assert_eq!(raw.ask("GET /acme HTTP/1.1\r\nHost: one.example\r\n\r\n").1, "served ");
            assert!(
                Raw::open("one.example", &certificate)
                    .try_ask("GET /acme HTTP/1.1\r\nHost: one.example\r\n\r\n")
                    .is_err()
            );
            assert_eq!(
                Raw::open("two.example", &certificate).ask("GET / HTTP/1.1\r\nHost: two.example\r\n\r\n").1,
                "served "
            );
        });
        assert!(world.log().contains("no-authority"), "{}", world.log());
    });
}

#[test]
fn a_credential_is_on_allowed_requests_only_and_never_on_plain_ones() {
    isolated("http_rules::a_credential_is_on_allowed_requests_only_and_never_on_plain_ones", || {
        let ruled = Ruled::new(reading(), vec![binding("token", "one.example")]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            let with = format!("Host: one.example\r\nX-Key: {PLACEHOLDER}\r\n\r\n");
            let mut raw = Raw::open("one.example", &authority);
            assert!(raw.ask(&format!("PUT /acme HTTP/1.1\r\n{with}")).0.starts_with("http/1.1 403"));
            raw.ask(&format!("GET /acme HTTP/1.1\r\n{with}"));
            let mut plain = Raw::plain("one.example", 80);
            plain.ask(&format!("GET /acme HTTP/1.1\r\n{with}"));
            let keys: Vec<_> =
                server.seen().iter().map(|seen| seen.headers["x-key"].to_str().unwrap().to_owned()).collect();
            assert_eq!(keys, [VALUE, PLACEHOLDER]);
        });
        assert!(!ruled.world.log().contains(VALUE));
    });
}

#[test]
fn a_web_socket_over_plain_http_is_one_request() {
    isolated("http_rules::a_web_socket_over_plain_http_is_one_request", || {
        let ruled = Ruled::new(reading(), vec![]);
        ruled.world.sandbox.run(|| {
            let upgrade = "Host: one.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
            let mut raw = Raw::plain("one.example", 80);
            assert!(raw.ask(&format!("GET /socket HTTP/1.1\r\n{upgrade}")).0.starts_with("http/1.1 403"));
            assert!(raw.ask(&format!("GET /acme/socket HTTP/1.1\r\n{upgrade}")).0.starts_with("http/1.1 101"));
            raw.write(b"ping");
            assert_eq!(&raw.word(), b"ping");
        });
    });
}

#[test]
fn a_denial_has_method_and_path() {
    isolated("http_rules::a_denial_has_method_and_path", || {
        let ruled = Ruled::new(reading(), vec![]);
        ruled.world.sandbox.run(|| {
            Raw::plain("one.example", 80).ask("BREW /pot?tea=1 HTTP/1.1\r\nHost: one.example\r\n\r\n");
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let denial = runtime.block_on(async {
            let socket = ruled.world.socket();
            let watch = cordium_broker::watch_denials(&socket, "ws-test", 0, false);
            let mut denials = tokio::time::timeout(Duration::from_secs(10), watch).await.unwrap().unwrap();
            denials.next().await.unwrap().unwrap()
        });
        assert_eq!((denial.method.as_deref(), denial.path.as_deref()), (Some("BREW"), Some("/pot")));
        assert_eq!(
            (denial.names, denial.port, denial.rule),
            (vec!["one.example".into()], Some(80), "default".into())
        );
    });
}
