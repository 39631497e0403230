//! Credentials on requests: a real server of HTTPS behind a real gateway, and clients that have placeholders only.

pub mod client;
mod refused;
pub mod server;

use std::sync::Arc;

use bytes::Bytes;
use cordium_broker::{
    Authority, Binding, Credentials, Happened, Inject, Record, Registered, Secret, Terms, Use,
};
use http::{Request, StatusCode, Version};
use http_body_util::Full;

use crate::egress::hosts;
use crate::egress::records::until;
use crate::egress::servers::name_server;
use crate::support::{World, isolated};
use client::{Raw, http2};
use server::Server;

pub const PLACEHOLDER: &str = "ghp_0000placeholder0000";
pub const VALUE: &str = "ghp_TheRealValueOfTheToken";

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub fn binding(name: &str, host: &str) -> Binding {
    Binding {
        name: name.into(),
        secret: "the-secret".into(),
        hosts: vec![host.into()],
        methods: vec![],
        paths: vec![],
        inject: Inject::Header { name: "Authorization".into(), prefix: "Bearer ".into() },
        placeholder: PLACEHOLDER.into(),
        value: Secret::new(VALUE.as_bytes().to_vec()),
    }
}

/// A server, and a workspace that has these bindings and may reach `one.example` and `two.example`.
struct Bound {
    world: World,
    server: Server,
    credentials: Credentials,
    registered: Registered,
}

impl Bound {
    fn new(bindings: Vec<Binding>) -> Self {
        Self::trusting(bindings, |server| vec![server.certificate.clone()])
    }

    fn trusting(bindings: Vec<Binding>, roots: impl Fn(&Server) -> Vec<String>) -> Self {
        let world = World::new();
        name_server();
        let server = Server::start(&world);
        let authority = Authority::generate("ws-test").unwrap();
        let credentials = Credentials { authority, extra_roots: roots(&server), bindings };
        let policy = hosts("one.example two.example");
        let registered = world.register_with(policy, Some(credentials.clone()), vec![]);
        Self { world, server, credentials, registered }
    }

    /// The certificate that the workspace trusts.
    fn authority(&self) -> String {
        self.credentials.authority.certificate.clone()
    }

    fn set(&self, credentials: Option<&Credentials>) {
        let policy = hosts("one.example two.example");
        self.registered.set_policy(Terms { policy: &policy, credentials, services: None }).unwrap();
    }

    fn is_not_logged(&self) {
        let log = self.world.log();
        assert!(log.contains("workspace registered"), "{log}");
        for secret in [VALUE, PLACEHOLDER, "PRIVATE KEY"] {
            assert!(!log.contains(secret), "{log}");
        }
    }
}

fn authorization(server: &Server) -> Vec<String> {
    let text = |seen: &server::Seen| {
        seen.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned())
    };
    server.seen().iter().map(|seen| text(seen).unwrap_or_default()).collect()
}

#[test]
fn the_value_is_on_requests_of_both_versions_and_is_not_inside() {
    isolated("inspect::the_value_is_on_requests_of_both_versions_and_is_not_inside", || {
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            let mut raw = Raw::open("one.example", &authority);
            let (head, body) = raw.ask("POST /a?b HTTP/1.1\r\nHost: one.example\r\nContent-Length: 4\r\n\r\nbody");
            assert!(head.starts_with("http/1.1 200") && body == "served body", "{head}{body}");
            let with = format!("GET / HTTP/1.1\r\nHost: one.example\r\nAuthorization: token {PLACEHOLDER}\r\n\r\n");
            assert_eq!(raw.ask(&with).1, "served ", "the connection stays");
            let chunked = "PUT / HTTP/1.1\r\nHost: one.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
            assert_eq!(raw.ask(chunked).1, "served abc");
            let seen = server.seen();
            assert_eq!((seen[0].method.as_str(), seen[0].uri.as_str()), ("POST", "/a?b"));
            assert!(seen.iter().all(|seen| seen.version == Version::HTTP_11));
            let values: Vec<_> = seen.iter().map(|seen| seen.headers["authorization"].to_str().unwrap()).collect();
            assert_eq!(values, [format!("Bearer {VALUE}"), format!("token {VALUE}"), format!("Bearer {VALUE}")]);

            let request = |number: usize| {
                let uri = format!("https://one.example/{number}");
                Request::post(uri).body(Full::new(Bytes::from(vec![b'x'; 100_000 * number]))).unwrap()
            };
            let answers = http2("one.example", &authority, (0..8).map(request).collect());
            for (number, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.unwrap().into_body().len(), "served ".len() + 100_000 * number);
            }
            let seen = server.seen();
            assert_eq!(seen.len(), 8);
            for seen in seen {
                assert_eq!((seen.version, seen.headers["authorization"].to_str().unwrap()), (Version::HTTP_2, format!("Bearer {VALUE}").as_str()));
            }
        });
        bound.is_not_logged();
    });
}

#[test]
fn each_use_of_a_secret_is_told_without_its_value_and_without_queries() {
    isolated("inspect::each_use_of_a_secret_is_told_without_its_value_and_without_queries", || {
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let authority = bound.authority();
        bound.world.sandbox.run(move || {
            let mut raw = Raw::open("one.example", &authority);
            for path in ["/a?hidden=1", "/a", "/b"] {
                raw.ask(&format!("GET {path} HTTP/1.1\r\nHost: one.example\r\n\r\n"));
            }
            // Its own: no secret is used.
            raw.ask("GET /own HTTP/1.1\r\nHost: one.example\r\nAuthorization: mine\r\n\r\n");
        });
        let Bound { world, registered, .. } = bound;
        drop(registered);
        let records = until(&world, 0, 0, |records| records.iter().map(|r| r.count).sum::<u64>() >= 3);
        let [first, rest] = &records[..] else { panic!("{records:?}") };
        let used = |record: &Record| match &record.what {
            Happened::Used(used) => used.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((first.count, used(first).requests.as_slice()), (1, &["GET /a".to_owned()][..]));
        assert_eq!((rest.count, used(rest).requests.join(" ")), (2, "GET /a GET /b".to_owned()));
        let Use { credential, secret, host, port, .. } = used(first);
        assert_eq!(
            (credential.as_str(), secret.as_str(), host.as_str(), port),
            ("token", "the-secret", "one.example", 443)
        );
        let text = format!("{records:?}");
        assert!(!text.contains(VALUE) && !text.contains(PLACEHOLDER) && !text.contains("hidden"), "{text}");
    });
}

#[test]
fn a_host_without_a_binding_passes_untouched() {
    isolated("inspect::a_host_without_a_binding_passes_untouched", || {
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let server = bound.server.clone();
        bound.world.sandbox.run(move || {
            // The server's own certificate is what the client sees.
            let mut raw = Raw::open("two.example", &server.certificate);
            let with = format!("GET / HTTP/1.1\r\nHost: two.example\r\nAuthorization: {PLACEHOLDER}\r\n\r\n");
            assert_eq!(raw.ask(&with).1, "served ");
            assert_eq!(raw.ask("GET / HTTP/1.1\r\nHost: two.example\r\n\r\n").1, "served ");
            assert_eq!(authorization(&server), [PLACEHOLDER, ""], "worthless elsewhere");
        });
        bound.is_not_logged();
    });
}

#[test]
fn new_credentials_hold_at_once_and_none_ends_what_is_open() {
    isolated("inspect::new_credentials_hold_at_once_and_none_ends_what_is_open", || {
        let mut bound = Bound::new(vec![binding("token", "one.example")]);
        let authority = bound.authority();
        let mut raw = bound.world.sandbox.run(move || Raw::open("one.example", &authority));
        let request = "GET / HTTP/1.1\r\nHost: one.example\r\n\r\n";
        raw.ask(request);
        bound.credentials.bindings[0].value = Secret::new(b"rotated".to_vec());
        bound.set(Some(&bound.credentials));
        raw.ask(request);
        assert_eq!(authorization(&bound.server), [format!("Bearer {VALUE}"), "Bearer rotated".into()]);

        let mut bad = bound.credentials.clone();
        bad.bindings[0].hosts.clear();
        let policy = hosts("one.example");
        let error = bound
            .registered
            .set_policy(Terms { policy: &policy, credentials: Some(&bad), services: None })
            .unwrap_err();
        assert!(error.is_refusal() && error.to_string().contains("bindings[0].hosts"), "{error}");
        raw.ask(request);
        assert_eq!(authorization(&bound.server), ["Bearer rotated"], "the old ones hold");

        bound.set(None);
        assert!(raw.ends());
        let certificate = bound.server.certificate.clone();
        let mut raw = bound.world.sandbox.run(move || Raw::open("one.example", &certificate));
        raw.ask(request);
        assert_eq!(authorization(&bound.server), [""]);
        bound.is_not_logged();
    });
}

#[test]
fn a_policy_that_takes_the_host_away_ends_what_is_open() {
    isolated("inspect::a_policy_that_takes_the_host_away_ends_what_is_open", || {
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let authority = bound.authority();
        let mut raw = bound.world.sandbox.run(move || Raw::open("one.example", &authority));
        raw.ask("GET / HTTP/1.1\r\nHost: one.example\r\n\r\n");
        let policy = hosts("two.example");
        bound
            .registered
            .set_policy(Terms { policy: &policy, credentials: Some(&bound.credentials), services: None })
            .unwrap();
        assert!(raw.ends());
    });
}

#[test]
fn connections_that_are_inspected_are_bounded_and_others_are_not() {
    isolated("inspect::connections_that_are_inspected_are_bounded_and_others_are_not", || {
        const MOST: usize = 128;
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            // Those do not end by themselves.
            let open = |_| {
                let mut raw = Raw::open("one.example", &authority);
                assert!(raw.ask(WEB_SOCKET).0.starts_with("http/1.1 101"));
                raw
            };
            let open: Vec<Raw> = (0..MOST).map(open).collect();
            assert!(Raw::open("one.example", &authority).try_ask(WEB_SOCKET).is_err());
            let mut other = Raw::open("two.example", &server.certificate);
            assert_eq!(other.ask("GET / HTTP/1.1\r\nHost: two.example\r\n\r\n").1, "served ");
            drop(open);
        });
        assert!(bound.world.log().contains("max-inspected"));
    });
}

const WEB_SOCKET: &str = "GET /socket HTTP/1.1\r\nHost: one.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Key: x\r\n\r\n";

#[test]
fn a_web_socket_is_opened_with_the_value_and_passes() {
    isolated("inspect::a_web_socket_is_opened_with_the_value_and_passes", || {
        let bound = Bound::new(vec![binding("token", "one.example")]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            let mut raw = Raw::open("one.example", &authority);
            let (head, _) = raw.ask(WEB_SOCKET);
            assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
            for word in [b"ping", b"pong"] {
                raw.write(word);
                assert_eq!(&raw.word(), word);
            }
            assert_eq!(authorization(&server), [format!("Bearer {VALUE}")]);
            // Any other protocol is not switched to: the request goes on without its wish.
            let mut raw = Raw::open("one.example", &authority);
            let (head, _) = raw.ask(
                "GET / HTTP/1.1\r\nHost: one.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
            );
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let seen = server.seen();
            assert!(!seen[0].headers.contains_key("upgrade") && !seen[0].headers.contains_key("http2-settings"));
        });
        bound.is_not_logged();
    });
}

#[test]
fn a_server_whose_certificate_is_not_trusted_gets_nothing() {
    isolated("inspect::a_server_whose_certificate_is_not_trusted_gets_nothing", || {
        let bound = Bound::trusting(vec![binding("token", "one.example")], |_| vec![]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            let mut raw = Raw::open("one.example", &authority);
            let (head, body) = raw.ask("GET / HTTP/1.1\r\nHost: one.example\r\n\r\n");
            assert!(head.starts_with("http/1.1 502"), "{head}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (&body["rule"], &body["host"]),
                (&"upstream-tls".into(), &"one.example".into()),
                "{body}"
            );
            assert!(body["reason"].as_str().unwrap().contains("certificate"), "{body}");
            let request = Request::get("https://one.example/").body(Full::default()).unwrap();
            let answer = http2("one.example", &authority, vec![request]).remove(0).unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
            assert!(server.seen().is_empty());
        });
        bound.is_not_logged();
    });
}
