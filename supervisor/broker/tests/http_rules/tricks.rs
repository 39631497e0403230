//! Ways around a rule by path, none of which leads to the server.

use http::{Request, Uri};
use http_body_util::Full;

use super::{Ruled, but_admin, json};
use crate::inspect::client::{Raw, http2};
use crate::support::isolated;

#[test]
fn a_path_that_servers_read_in_two_ways_does_not_leave() {
    isolated("http_rules::tricks::a_path_that_servers_read_in_two_ways_does_not_leave", || {
        let ruled = Ruled::new(but_admin(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            let paths = [
                "/admin",
                "/admin/",
                "/%61dmin",
                "/x/../admin",
                "/x/%2e%2e/admin",
                "/x/.%2E/admin",
                "/./admin",
                "//admin",
                "/x//../admin",
                "/admin;x",
                "/x;/../admin",
                "/x%2f..%2fadmin",
                "/x%2Fadmin",
                "/x%5c..%5cadmin",
                "/x\\..\\admin",
                "/\\admin",
                "/%c0%ae%c0%ae/admin",
                "/%e0%80%af",
                "/%00/admin",
                "/admin%00",
                "/%252e%252e/admin",
                "/admin%20/..",
                "/%ff",
                "/x%0d%0aadmin",
                "/admin%",
                "/a%zz",
                "/x?/../%",
                "/admin#x",
                "/admin?x",
            ];
            let harmless = ["/x?/../%", "/adminx", "/a%20dmin", "/x%C3%A9"];
            for path in paths.iter().chain(&harmless) {
                for mut raw in [Raw::plain("one.example", 80), Raw::open("one.example", &authority)] {
                    raw.write(
                        format!("GET {path} HTTP/1.1\r\nHost: one.example\r\nConnection: close\r\n\r\n")
                            .as_bytes(),
                    );
                    let answer = raw.rest().to_lowercase();
                    if harmless.contains(path) {
                        assert!(answer.starts_with("http/1.1 200"), "{path}: {answer}");
                        assert_eq!(server.seen().len(), 1, "{path}");
                        continue;
                    }
                    assert!(answer.starts_with("http/1.1 4"), "{path}: {answer}");
                    if let (Some((_, body)), true) =
                        (answer.split_once("\r\n\r\n"), answer.starts_with("http/1.1 403"))
                    {
                        assert_eq!(json(body)["rule"], "admin", "{path}");
                    }
                    assert!(server.seen().is_empty(), "{path}");
                }
                let Ok(uri) = format!("https://one.example{path}").parse::<Uri>() else { continue };
                let request = Request::get(uri).body(Full::default()).unwrap();
                let answer = http2("one.example", &authority, vec![request]).remove(0);
                let allowed = answer.is_ok_and(|answer| answer.status() == 200);
                assert_eq!(
                    (allowed, server.seen().len()),
                    (harmless.contains(path), usize::from(allowed)),
                    "{path}"
                );
            }
        });
    });
}

#[test]
fn a_request_in_a_request_does_not_leave() {
    isolated("http_rules::tricks::a_request_in_a_request_does_not_leave", || {
        let ruled = Ruled::new(but_admin(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            let host = "Host: one.example\r\n";
            let inner = format!("GET /admin HTTP/1.1\r\n{host}\r\n");
            let length = inner.len();
            let hidden = format!("{length:x}\r\n{inner}\r\n0\r\n\r\n");
            let streams = [
                ("CL.TE", format!("POST /x HTTP/1.1\r\n{host}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}", length + 5)),
                ("TE.CL", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{hidden}")),
                ("TE.TE", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{inner}")),
                ("a folded encoding", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
                ("white space before a colon", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{inner}")),
                ("a vertical tab", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{inner}")),
                ("two lengths", format!("POST /x HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{inner}")),
                ("no length", format!("GET /x HTTP/1.1\r\n{host}\r\n{inner}")),
                ("a length of 0", format!("POST /x HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n{inner}")),
                ("bare line feeds", format!("GET /x HTTP/1.1\nHost: one.example\n\n{inner}")),
                ("a bare line feed in a chunk", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\n\n{inner}")),
                ("a chunk's extension", format!("POST /x HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0;\n{inner}\r\n\r\n")),
                ("obs-fold", format!("GET /x HTTP/1.1\r\n{host}X: a\r\n GET /admin HTTP/1.1\r\n\r\n")),
                ("two hosts", "GET /admin HTTP/1.1\r\nHost: two.example\r\nHost: one.example\r\n\r\n".into()),
                ("an absolute target", format!("GET http://one.example/admin HTTP/1.1\r\n{host}\r\n")),
                ("another's absolute target", format!("GET http://two.example/admin HTTP/1.1\r\n{host}\r\n")),
                ("connect", format!("CONNECT one.example:80 HTTP/1.1\r\n{host}\r\n{inner}")),
                ("an upgrade to HTTP/2", format!("GET /x HTTP/1.1\r\n{host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n{inner}")),
                ("prior knowledge", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
                ("HTTP/0.9", "GET /admin\r\n".into()),
                ("two spaces", format!("GET  /admin HTTP/1.1\r\n{host}\r\n")),
                ("a tab", format!("GET\t/admin\tHTTP/1.1\r\n{host}\r\n")),
                ("a leading line", format!("\r\n{inner}")),
                ("an asterisk", format!("OPTIONS * HTTP/1.1\r\n{host}\r\n")),
            ];
            for (name, stream) in &streams {
                for mut raw in [Raw::plain("one.example", 80), Raw::open("one.example", &authority)] {
                    raw.write(format!("{stream}GET /last HTTP/1.1\r\n{host}Connection: close\r\n\r\n").as_bytes());
                    raw.rest();
                    for seen in server.seen() {
                        let harmless = seen.uri == "/x" || seen.uri == "/last";
                        assert!(harmless && !seen.headers.contains_key("upgrade"), "{name}: {seen:?}");
                        // In a body it is nobody's request.
                        assert!(seen.body.is_empty() || seen.body == inner.as_bytes(), "{name}: {seen:?}");
                        let ways = ["content-length", "transfer-encoding"].map(|way| seen.headers.get_all(way).iter().count());
                        assert!(ways.iter().sum::<usize>() <= 1, "{name}: {seen:?}");
                    }
                }
            }
        });
    });
}

#[test]
fn http2_names_the_host_of_its_connection_only() {
    isolated("http_rules::tricks::http2_names_the_host_of_its_connection_only", || {
        let ruled = Ruled::new(but_admin(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            let get = |uri: &str| Request::get(uri).body(Full::default()).unwrap();
            let mut other = get("https://one.example/x");
            other.headers_mut().insert("host", "two.example".parse().unwrap());
            let connect = Request::connect("one.example:443").body(Full::default()).unwrap();
            let mut original = get("https://one.example/x");
            original.headers_mut().insert("x-original-url", "/admin".parse().unwrap());
            for request in
                [get("https://two.example/admin"), get("https://two.example/x"), other, connect, original]
            {
                let shown = format!("{request:?}");
                let answer = http2("one.example", &authority, vec![request]).remove(0);
                assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 403), "{shown}");
                assert!(server.seen().is_empty(), "{shown}");
            }
        });
    });
}

#[test]
fn a_head_without_an_end_is_cut_short() {
    isolated("http_rules::tricks::a_head_without_an_end_is_cut_short", || {
        let ruled = Ruled::new(but_admin(), vec![]);
        let (authority, server) = (ruled.authority(), ruled.server.clone());
        ruled.world.sandbox.run(move || {
            for mut raw in [Raw::plain("one.example", 80), Raw::open("one.example", &authority)] {
                assert_eq!(raw.ask("GET /x HTTP/1.1\r\nHost: one.example\r\n\r\n").1, "served ");
                raw.write(b"GET /x HTTP/1.1\r\nHost: one.example\r\n");
                let line = format!("X: {}\r\n", "x".repeat(1 << 16));
                // Of a gigabyte, next to nothing is taken.
                let taken = (0..1 << 14).take_while(|_| raw.try_write(line.as_bytes())).count();
                assert!(taken < 1 << 8, "{taken}");
                assert_eq!(server.seen().len(), 1);
            }
        });
    });
}
