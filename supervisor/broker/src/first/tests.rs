use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// What a real client says first.
fn client_hello(name: &str) -> Vec<u8> {
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// The handshake message of a real ClientHello, in records of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record =
        |part: &[u8]| [&[22, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    message.chunks(size).flat_map(record).collect()
}

fn vector16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// A small ClientHello with these extensions.
fn hello(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let extensions: Vec<u8> = extensions
        .iter()
        .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &vector16(body)].concat())
        .collect();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &vector16(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    records(&[&[1][..], &length[1..], &body].concat(), 1 << 14)
}

fn sni(names: &[&str]) -> (u16, Vec<u8>) {
    let names: Vec<u8> =
        names.iter().flat_map(|name| [&[0][..], &vector16(name.as_bytes())].concat()).collect();
    (0, vector16(&names))
}

fn refused(bytes: &[u8], part: &str) {
    match hear(bytes) {
        Heard::Refused(reason) if reason.contains(part) => {}
        other => panic!("{:?}: {other:?}, not {part:?}", String::from_utf8_lossy(bytes)),
    }
}

#[test]
fn the_name_of_a_real_client_hello_is_heard_however_it_is_cut() {
    let real = client_hello("api.example.com");
    let expected = Heard::Tls("api.example.com".into());
    assert_eq!(hear(&real), expected);
    for end in 0..real.len() {
        assert_eq!(hear(&real[..end]), Heard::Incomplete, "{end}");
    }
    for size in [1, 2, 3, 7, 100] {
        let cut = records(&real[5..], size);
        assert_eq!(hear(&cut), expected, "records of {size}");
        for end in 0..cut.len() {
            assert_eq!(hear(&cut[..end]), Heard::Incomplete, "records of {size}, {end}");
        }
    }
    assert_eq!(hear(&[&real[..], b"early data in its own record"].concat()), expected);
}

#[test]
fn an_outer_name_counts_where_the_inner_one_is_encrypted() {
    let ech = (0xfe0d, vec![0, 0, 1, 0, 1, 9, 0, 0, 0, 0]);
    assert_eq!(hear(&hello(&[ech, sni(&["outer.example"])])), Heard::Tls("outer.example".into()));
}

#[test]
fn a_client_hello_that_does_not_name_one_server_is_refused() {
    refused(&hello(&[]), "names no server");
    refused(&hello(&[(10, vec![0, 2, 0, 29])]), "names no server");
    refused(&hello(&[sni(&["a.example", "b.example"])]), "more than one");
    refused(&hello(&[sni(&["a.example"]), sni(&["b.example"])]), "more than one");
    refused(&hello(&[sni(&[""])]), "malformed");
    refused(&hello(&[sni(&["ä.example"])]), "malformed");
    refused(&hello(&[(0, vec![])]), "malformed");
    refused(&hello(&[(0, vec![0, 9, 0, 0, 1, b'a'])]), "malformed");
    refused(&hello(&[(0, vec![0, 4, 1, 0, 1, b'a'])]), "malformed");
    // In the format of SSL 2, with no room for a name.
    refused(&[0x80, 46, 1, 3, 1, 0, 21, 0, 0, 0, 16], "names no server");
}

#[test]
fn tls_that_does_not_begin_as_it_must_is_refused() {
    let good = hello(&[sni(&["a.example"])]);
    // An alert, a change of cipher, data; a version that is none; another handshake message.
    for kind in [20, 21, 23] {
        refused(&[kind, 3, 3, 0, 2, 1, 0], "begin with a ClientHello");
    }
    refused(&[22, 2], "begin with a ClientHello");
    refused(&[22, 3, 1, 0, 4, 2, 0, 0, 0], "begin with a ClientHello");
    refused(&[22, 3, 1, 0, 0], "malformed");
    refused(&[22, 3, 1, 0xff, 0xff], "malformed");
    let mut alert_within = records(&good[5..], 10);
    alert_within[15] = 21;
    refused(&alert_within, "begin with a ClientHello");
    // More in the record than the hello; extensions longer than the hello; a hello longer than what is looked at.
    refused(&records(&[&good[5..], &[0]].concat(), 1 << 14), "malformed");
    let mut long = good.clone();
    let at = good.len() - sni(&["a.example"]).1.len() - 6;
    long[at] = 0xff;
    refused(&long, "malformed");
    let endless = records(&[&[1, 0xff, 0xff, 0xff][..], &[0; 20_000]].concat(), 1000);
    assert_eq!(hear(&endless[..1000]), Heard::Incomplete);
    refused(&endless[..MOST], "longer than 16 KiB");
}

fn http(text: &str) -> Heard {
    hear(text.as_bytes())
}

fn host(name: &str) -> Heard {
    Heard::Http(Head { host: name.into() })
}

#[test]
fn the_host_of_a_request_is_heard() {
    for (text, expected) in [
        ("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example"),
        ("GET / HTTP/1.1\r\nAccept: */*\r\nhOST:\ta.example:8080 \r\nX: \r\n\r\nbody", "a.example"),
        ("POST http://A.example:80/x?y HTTP/1.0\r\nHost: a.example:80\r\n\r\n", "a.example"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example"),
        ("custom-verb /x HTTP/1.1\r\nHost: a.example\r\n\r\n", "a.example"),
    ] {
        assert_eq!(http(text), host(expected), "{text:?}");
        let end = text.find("\r\n\r\n").unwrap() + 4;
        for cut in 0..end {
            assert_eq!(http(&text[..cut]), Heard::Incomplete, "{:?}", &text[..cut]);
        }
    }
}

#[test]
fn a_request_that_two_servers_could_read_in_two_ways_is_refused() {
    for (text, reason) in [
        ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nhost: a.example\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\r\nX: y\r\n\r\n", "no Host"),
        ("GET / HTTP/1.0\r\n\r\n", "no Host"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nHost: u@a.example\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nHost: a.example/\r\n\r\n", "Host is malformed"),
        ("GET / HTTP/1.1\r\nX: y\r\n Host: b.example\r\nHost: a.example\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\r\nHost : a.example\r\n\r\n", "field name"),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", "without a colon"),
        ("GET / HTTP/1.1\nHost: a.example\n\n", "carriage return"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nX: y\nHost: b.example\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nX: y\rHost: b.example\r\n\r\n", "control character"),
        ("GET / HTTP/1.1\r\nHost: a.example\0\r\n\r\n", "control character"),
        ("\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "empty line"),
        (" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "request line"),
        ("\x0bGET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "control character"),
        ("GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n", "request line"),
        ("GET\t/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "request line"),
        ("GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n", "request line"),
        ("GET /\r\nHost: a.example\r\n\r\n", "request line"),
        ("GET / http/1.1\r\nHost: a.example\r\n\r\n", "version"),
        ("GET / HTTP/2.0\r\nHost: a.example\r\n\r\n", "version"),
        ("GET / HTTP/1.1 x\r\nHost: a.example\r\n\r\n", "request line"),
        ("CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "CONNECT"),
        ("connect b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "CONNECT"),
        ("GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "differ"),
        ("GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "differ"),
        ("GET http://b.example@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "target is malformed"),
        ("GET http://b.example\\@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "target is malformed"),
        ("GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "target is malformed"),
        ("GET a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", "target is malformed"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    ] {
        refused(text.as_bytes(), reason);
    }
    refused(b"GET / HTTP/1.1\r\nHost: a.example\r\nX: \xff\r\n\r\n", "not text");
    let endless = format!("GET / HTTP/1.1\r\nHost: a.example\r\nX: {}", "y".repeat(MOST));
    refused(endless.as_bytes(), "longer than 16 KiB");
    refused("x".repeat(MOST).as_bytes(), "longer than 16 KiB");
}

#[test]
fn other_protocols_are_told_apart_at_once() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..],
        b"EHLO client.example\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PING\r\n",
        b"a001 LOGIN user word\r\n",
        b"{\"jsonrpc\"",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x80\x01binary",
        b"\xff\xfd\x18",
    ] {
        assert_eq!(hear(bytes), Heard::Other, "{bytes:?}");
        assert!(!is_http(bytes));
    }
    assert_eq!(hear(b""), Heard::Incomplete);
}

#[test]
fn a_malformed_request_is_a_request_all_the_same() {
    for text in ["GET / HTTP/1.1\r\n", "GET /\r\n", "\r\nGET / HTTP/1.1\r\n", "BREW / http/9\r\n"] {
        assert!(is_http(text.as_bytes()), "{text:?}");
    }
    for text in ["", "GET / HTTP/1.1", "PRI * HTTP/2.0\r\n", "\x16\x03\x01"] {
        assert!(!is_http(text.as_bytes()), "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_what_is_told_stays_told(
        start in prop::sample::select(vec![&b""[..], b"GET / HTTP/1.1\r\nHost: ", b"\x16\x03\x01\x00", b"\x80", b"\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
        more in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let bytes = [start, &bytes].concat();
        let heard = hear(&bytes);
        let _ = is_http(&bytes);
        if heard != Heard::Incomplete {
            let longer = hear(&[&bytes[..], &more].concat());
            let named = |heard: &Heard| heard.name().map(str::to_owned);
            prop_assert_eq!(named(&heard), named(&longer));
        }
    }

    #[test]
    fn a_spoiled_hello_never_names_a_server_that_is_not_in_it(at in 0_usize..120, byte in any::<u8>()) {
        let mut bytes = hello(&[sni(&["a.example"])]);
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Heard::Tls(name) = hear(&bytes) {
            prop_assert!(bytes.windows(name.len()).any(|part| part == name.as_bytes()));
        }
    }
}
