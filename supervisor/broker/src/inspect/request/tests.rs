#![allow(clippy::unwrap_used)]

use http::{Method, Request};
use proptest::prelude::*;

use super::super::testing::{binding, credentials};
use super::super::{Binding, Inject, Roots};
use super::*;

fn inspection(bindings: Vec<Binding>) -> Inspection {
    Inspection::new(credentials(bindings), &Roots::none()).unwrap()
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri).header("Host", "a.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn applied(inspection: &Inspection, mut parts: Parts) -> Result<Parts, String> {
    let host = Host::parse("a.example").unwrap();
    inspection.apply(&host, 443, &mut parts, SystemTime::now()).map(|_| parts).map_err(|why| why.rule)
}

fn header(parts: &Parts, name: &str) -> String {
    parts.headers[name].to_str().unwrap().to_owned()
}

#[test]
fn a_header_is_set_where_there_is_none_and_the_placeholder_replaced_where_it_stands() {
    let inspection = inspection(vec![binding("one", "a.example"), binding("two", "b.example")]);
    let apply = |headers: &[(&str, &str)]| applied(&inspection, request("GET", "/", headers));
    let set = apply(&[]).unwrap();
    assert_eq!(header(&set, "authorization"), "Bearer value of one");
    assert!(set.headers["authorization"].is_sensitive() && !format!("{set:?}").contains("value of"));
    let replaced = apply(&[("Authorization", "token placeholder-of-one")]).unwrap();
    assert_eq!(header(&replaced, "authorization"), "token value of one");
    assert!(replaced.headers["authorization"].is_sensitive());
    let elsewhere = apply(&[("X-Key", "placeholder-of-one")]).unwrap();
    assert_eq!(header(&elsewhere, "x-key"), "value of one");
    assert!(!elsewhere.headers.contains_key("authorization"), "it has its place already");
    let own = apply(&[("Authorization", "Bearer mine")]).unwrap();
    assert_eq!(header(&own, "authorization"), "Bearer mine");
    assert_eq!(apply(&[("X-Key", "placeholder-of-two")]).unwrap_err(), "credential two");
    let basic = as_basic(b"git:placeholder-of-two");
    let basic = std::str::from_utf8(&basic).unwrap();
    assert_eq!(apply(&[("Authorization", basic)]).unwrap_err(), "credential two");
}

#[test]
fn basic_and_query() {
    let basic = Inject::Basic { username: "git".into() };
    let one = inspection(vec![Binding { inject: basic, ..binding("one", "a.example") }]);
    let set = applied(&one, request("GET", "/", &[])).unwrap();
    assert_eq!(header(&set, "authorization").as_bytes(), &**as_basic(b"git:value of one"));
    let query = Inject::Query { name: "api key".into() };
    let one = inspection(vec![Binding { inject: query, ..binding("one", "a.example") }]);
    for (before, after) in [
        ("/x", "/x?api%20key=value%20of%20one"),
        ("/x?", "/x?api%20key=value%20of%20one"),
        ("/x?a=1", "/x?a=1&api%20key=value%20of%20one"),
        ("/x?api%20key=mine", "/x?api%20key=mine"),
        ("/x?b=placeholder%2Dof-one", "/x?b=value%20of%20one"),
    ] {
        assert_eq!(applied(&one, request("GET", before, &[])).unwrap().uri, after);
    }
    assert_eq!(applied(&one, request("GET", "/placeholder-of-one", &[])).unwrap_err(), "credential one");
    assert_eq!(applied(&one, request("GET", "/%70laceholder-of-one", &[])).unwrap_err(), "credential one");
}

#[test]
fn methods_and_paths_are_needed_and_a_path_must_have_a_plain_form() {
    let bound = |name: &str, paths: &[&str], methods: &[&str]| Binding {
        methods: methods.iter().map(|text| (*text).to_owned()).collect(),
        paths: paths.iter().map(|text| (*text).to_owned()).collect(),
        ..binding(name, "a.example")
    };
    let inspection =
        inspection(vec![bound("read", &["/a", "/b/c"], &["GET", "HEAD"]), bound("write", &["/w"], &["PUT"])]);
    let rule = |method: &str, uri: &str| match applied(&inspection, request(method, uri, &[])) {
        Ok(parts) => header(&parts, "authorization"),
        Err(rule) => rule,
    };
    for uri in ["/a", "/a/x", "/b/c?x=//../", "/%61/y"] {
        assert_eq!(rule("GET", uri), "Bearer value of read", "{uri}");
    }
    assert_eq!(rule("PUT", "/w/x"), "Bearer value of write");
    for (method, uri) in [
        ("PUT", "/a"),
        ("get", "/a"),
        ("GET", "/"),
        ("GET", "/w"),
        ("GET", "/ab"),
        ("GET", "/a/../w"),
        ("GET", "/w/%2e%2e/a"),
        ("GET", "/a//x"),
        ("GET", "/a;x"),
        ("GET", "/a%2fx"),
        ("GET", "/a%5cx"),
        ("GET", "/a/%c0%ae"),
    ] {
        assert_eq!(rule(method, uri), "credential read", "{method} {uri}");
    }
    let with = |uri, placeholder| applied(&inspection, request("GET", uri, &[("X", placeholder)])).map(drop);
    assert_eq!(with("/a", "placeholder-of-read"), Ok(()));
    assert_eq!(with("/a", "placeholder-of-write"), Err("credential write".into()));
}

#[test]
fn a_head_that_is_too_long_and_a_host_that_is_another_are_refused() {
    let one = inspection(vec![binding("one", "a.example")]);
    let long = "x".repeat(MAX_HEAD);
    assert_eq!(applied(&one, request("GET", "/", &[("X", &long)])).unwrap_err(), "request");
    let many = "placeholder-of-one".repeat(MAX_HEAD / 40);
    assert!(applied(&one, request("GET", "/", &[("X", &many)])).is_ok());
    assert_eq!(applied(&one, request("GET", "/", &[("Host", "b.example")])).unwrap_err(), "request");
    let mut unbound = request("GET", "/", &[]);
    let host = Host::parse("b.example").unwrap();
    unbound.headers.insert("host", HeaderValue::from_static("b.example"));
    assert!(one.apply(&host, 443, &mut unbound, SystemTime::now()).is_err(), "no longer bound");
}

proptest! {
    #[test]
    fn any_request_is_answered_and_what_goes_on_has_no_placeholder(
        path in "/[ -~]{0,30}",
        name in "[a-zA-Z-]{1,10}",
        text in "[ -~]{0,20}",
        place in 0_usize..4,
    ) {
        let inspection = inspection(vec![
            Binding { paths: vec!["/a".into()], ..binding("one", "a.example") },
            binding("two", "a.example"),
        ]);
        let hold = ["", "placeholder-of-one", "placeholder-of-two", "placeholder-of-other"][place];
        let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
        let Ok(value) = HeaderValue::from_str(&format!("{text}{hold}")) else { return Ok(()) };
        let mut parts = request("GET", "/", &[]);
        parts.uri = uri;
        parts.headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
        parts.method = Method::GET;
        if let Ok(made) = applied(&inspection, parts) {
            prop_assert!(!stands_in(&made, "placeholder-of-one") && !stands_in(&made, "placeholder-of-two"));
        }
    }
}

#[test]
fn what_was_put_on_a_request_is_told() {
    let query = Inject::Query { name: "key".into() };
    let two = Binding { inject: query, secret: "second".into(), ..binding("two", "a.example") };
    let inspection = inspection(vec![binding("one", "a.example"), two]);
    let host = Host::parse("a.example").unwrap();
    let used = |uri: &str, headers: &[(&str, &str)]| -> Vec<String> {
        let mut parts = request("GET", uri, headers);
        let used = inspection.apply(&host, 443, &mut parts, SystemTime::now()).unwrap();
        used.iter().map(|bound| format!("{} {}", bound.name, bound.secret)).collect()
    };
    assert_eq!(used("/", &[]), ["one ", "two second"]);
    // Its own, which is none of ours.
    assert_eq!(used("/", &[("Authorization", "Bearer mine")]), ["two second"]);
    assert_eq!(used("/?key=mine", &[("X-Key", "placeholder-of-one")]), ["one "]);
    assert!(used("/?key=mine", &[("Authorization", "Bearer mine")]).is_empty());
}
