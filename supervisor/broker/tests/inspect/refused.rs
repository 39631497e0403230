//! Requests that do not go on, and what their senders are told.

use cordium_broker::{Binding, Inject, Secret};
use http::{Request, StatusCode};
use http_body_util::Full;

use super::client::{Raw, http2};
use super::{Bound, PLACEHOLDER, VALUE, binding};
use crate::support::isolated;

const OTHER: &str = "other-placeholder-0000";

fn other(host: &str) -> Binding {
    let value = Secret::new(b"the value of the other".to_vec());
    Binding { placeholder: OTHER.into(), value, ..binding("other", host) }
}

#[test]
fn what_is_not_bound_is_told_why_and_does_not_leave() {
    isolated("inspect::refused::what_is_not_bound_is_told_why_and_does_not_leave", || {
        let limited = Binding {
            methods: vec!["GET".into()],
            paths: vec!["/repos".into()],
            ..binding("token", "one.example")
        };
        let bound = Bound::new(vec![limited, other("two.example")]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            let mut raw = Raw::open("one.example", &authority);
            for (line, header, rule) in [
                ("POST /repos", "X: y", "credential token"),
                ("GET /", "X: y", "credential token"),
                ("GET /reposevil", "X: y", "credential token"),
                ("GET /repos/../user", "X: y", "credential token"),
                ("GET /repos/%2e%2e/user", "X: y", "credential token"),
                ("GET /repos//x", "X: y", "credential token"),
                ("GET /repos/x;y", "X: y", "credential token"),
                ("GET /repos/x%2Fy", "X: y", "credential token"),
                ("GET /repos/x%5cy", "X: y", "credential token"),
                ("GET /repos/%c0%af", "X: y", "credential token"),
                ("GET /repos", "X: other-placeholder-0000", "credential other"),
                ("GET /repos", "Authorization: Basic eDpvdGhlci1wbGFjZWhvbGRlci0wMDAw", "credential other"),
                ("GET /repos?x=other%2Dplaceholder%2D0000", "X: y", "credential other"),
                ("GET /repos/ghp_0000placeholder0000", "X: y", "credential token"),
            ] {
                let (head, body) =
                    raw.ask(&format!("{line} HTTP/1.1\r\nHost: one.example\r\n{header}\r\n\r\n"));
                assert!(
                    head.starts_with("http/1.1 403") && head.contains("application/json"),
                    "{line}: {head}"
                );
                let body: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(
                    (&body["error"], &body["rule"]),
                    (&"egress denied".into(), &rule.into()),
                    "{line}: {body}"
                );
                assert!(body["next"].as_str().unwrap().len() > 10);
            }
            let large = "x".repeat(100_000);
            let (head, _) = raw.ask(&format!(
                "POST /repos HTTP/1.1\r\nHost: one.example\r\nContent-Length: {}\r\n\r\n{large}",
                large.len()
            ));
            assert!(head.starts_with("http/1.1 403"), "{head}");
            assert!(server.seen().is_empty());
            let get = |uri: &str| Request::get(uri).body(Full::default()).unwrap();
            let requests =
                ["https://one.example/repos", "https://one.example/", "https://two.example/repos"].map(get);
            let mut differs = get("https://one.example/repos");
            differs.headers_mut().insert("host", "two.example".parse().unwrap());
            let answers = http2("one.example", &authority, [&requests[..], &[differs]].concat());
            let status = answers.into_iter().map(|answer| answer.unwrap().status());
            let no = StatusCode::FORBIDDEN;
            assert_eq!(status.collect::<Vec<_>>(), [StatusCode::OK, no, no, no]);
            assert_eq!(server.seen().len(), 1);
        });
        let log = bound.world.log();
        assert!(log.contains("rule=\"credential token\""), "{log}");
        bound.is_not_logged();
    });
}

/// Each in one write; what comes after the first request must not reach the server as a request of its own.
#[test]
fn a_request_that_two_readers_could_read_in_two_ways_does_not_smuggle() {
    isolated("inspect::refused::a_request_that_two_readers_could_read_in_two_ways_does_not_smuggle", || {
        let bound =
            Bound::new(vec![Binding { paths: vec!["/ok".into()], ..binding("token", "one.example") }]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            let host = "Host: one.example\r\n";
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: one.example\r\n\r\n";
            for (name, head) in [
                ("two hosts", format!("GET /ok HTTP/1.1\r\n{host}Host: evil.example\r\n\r\n")),
                ("the same twice", format!("GET /ok HTTP/1.1\r\n{host}{host}\r\n")),
                ("no host", "GET /ok HTTP/1.1\r\n\r\n".into()),
                ("another host", "GET /ok HTTP/1.1\r\nHost: evil.example\r\n\r\n".into()),
                ("an absolute target", format!("GET https://evil.example/ok HTTP/1.1\r\n{host}\r\n")),
                ("connect", format!("CONNECT one.example:443 HTTP/1.1\r\n{host}\r\n")),
                ("a folded line", format!("GET /ok HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n")),
                ("a folded host", "GET /ok HTTP/1.1\r\nHost:\r\n one.example\r\n\r\n".into()),
                ("white space before a colon", format!("GET /ok HTTP/1.1\r\n{host}Content-Length : 3\r\n\r\nabc")),
                ("two lengths", format!("POST /ok HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")),
                ("a list of lengths", format!("POST /ok HTTP/1.1\r\n{host}Content-Length: 3, 4\r\n\r\nabcd")),
                ("a signed length", format!("POST /ok HTTP/1.1\r\n{host}Content-Length: +3\r\n\r\nabc")),
                ("an encoding that is none", format!("POST /ok HTTP/1.1\r\n{host}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n")),
                ("two encodings", format!("POST /ok HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n")),
                ("a chunked HTTP/1.0", format!("POST /ok HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")),
                ("a control character", format!("GET /ok HTTP/1.1\r\n{host}X: a\0b\r\n\r\n")),
                ("a bare carriage return", format!("GET /ok HTTP/1.1\r\n{host}X: a\rY: b\r\n\r\n")),
                ("an old version", format!("GET /ok HTTP/0.9\r\n{host}\r\n")),
                ("HTTP/2 in it", format!("PRI * HTTP/2.0\r\n{host}\r\n")),
                ("a head too long", format!("GET /ok HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(70_000))),
            ] {
                let mut raw = Raw::open("one.example", &authority);
                raw.write(head.as_bytes());
                if let Ok((answer, _)) = raw.answer() {
                    assert!(answer.starts_with("http/1.1 4"), "{name}: {answer}");
                }
                assert!(server.seen().is_empty(), "{name}");
            }
            // Both ways to say the length: the second request, if there is one, is checked for itself.
            for head in [
                format!("POST /ok HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
                format!("POST /ok HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 55\r\n\r\n0\r\n\r\n{smuggled}"),
                format!("POST /ok HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n{smuggled}"),
            ] {
                let mut raw = Raw::open("one.example", &authority);
                raw.write(head.as_bytes());
                raw.answer().unwrap();
                if let Ok((answer, _)) = raw.answer() {
                    assert!(answer.starts_with("http/1.1 4"), "{answer}");
                }
                for seen in server.seen() {
                    assert_eq!((seen.uri.as_str(), seen.body.len()), ("/ok", 0), "{head}");
                    let ways = ["content-length", "transfer-encoding"].map(|name| seen.headers.get_all(name).iter().count());
                    assert_eq!(ways.iter().sum::<usize>(), 1, "{:?}", seen.headers);
                }
            }
        });
        bound.is_not_logged();
    });
}

#[test]
fn basic_and_query_carry_the_value_too() {
    isolated("inspect::refused::basic_and_query_carry_the_value_too", || {
        let git =
            Binding { inject: Inject::Basic { username: "git".into() }, ..binding("git", "one.example") };
        let query = Binding { inject: Inject::Query { name: "key".into() }, ..other("two.example") };
        let bound = Bound::new(vec![git, query]);
        let (authority, server) = (bound.authority(), bound.server.clone());
        bound.world.sandbox.run(move || {
            use base64::{Engine, engine::general_purpose::STANDARD};
            let encode = |text: String| STANDARD.encode(text);
            let mut raw = Raw::open("one.example", &authority);
            raw.ask("GET / HTTP/1.1\r\nHost: one.example\r\n\r\n");
            let mine = encode(format!("me:{PLACEHOLDER}"));
            raw.ask(&format!("GET / HTTP/1.1\r\nHost: one.example\r\nAuthorization: Basic {mine}\r\n\r\n"));
            let expected = ["git", "me"].map(|user| format!("Basic {}", encode(format!("{user}:{VALUE}"))));
            assert_eq!(super::authorization(&server), expected);
            let mut raw = Raw::open("two.example", &authority);
            raw.ask("GET /x HTTP/1.1\r\nHost: two.example\r\n\r\n");
            raw.ask(&format!("GET /x?token={OTHER} HTTP/1.1\r\nHost: two.example\r\n\r\n"));
            let uris: Vec<_> = server.seen().into_iter().map(|seen| seen.uri).collect();
            let value = "the%20value%20of%20the%20other";
            assert_eq!(uris, [format!("/x?key={value}"), format!("/x?token={value}")]);
        });
        bound.is_not_logged();
    });
}
