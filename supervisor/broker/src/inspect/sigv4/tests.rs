//! The examples that AWS publishes: of its test suite, and of the documentation of S3.

use std::time::Duration;

use http::Request;

use super::*;

const SUITE: Keys<'_> = Keys {
    access_key_id: "AKIDEXAMPLE",
    placeholder: b"placeholder-of-this-workspace",
    value: b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
};
const S3: Keys<'_> = Keys {
    access_key_id: "AKIAIOSFODNN7EXAMPLE",
    placeholder: b"placeholder-of-this-workspace",
    value: b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
};
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SCOPE_SUITE: &str = "20150830/us-east-1/service/aws4_request";
const SCOPE_S3: &str = "20130524/us-east-1/s3/aws4_request";

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// 2015-08-30 12:36:00 and 2013-05-24 00:00:00.
fn time_of(keys: &Keys<'_>) -> SystemTime {
    at(if keys.access_key_id == "AKIDEXAMPLE" { 1_440_938_160 } else { 1_369_353_600 })
}

fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &[u8]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut parts = request.body(()).unwrap().into_parts().0;
    parts.extensions.insert(BodyHash::of(body));
    parts
}

/// As a client with `secret` would sign it.
fn signed_with(parts: &mut Parts, access_key_id: &str, secret: &[u8], scope: &str, signed: &str) {
    let text = format!("{ALGORITHM} Credential={access_key_id}/{scope}, SignedHeaders={signed}, Signature=0");
    let claim = Claim::read(&text).unwrap();
    let hash = digest::digest(&digest::SHA256, canonical(parts, &claim).unwrap().as_bytes());
    let date = one(parts, DATE).unwrap();
    let signature = claim.sign(secret, &format!("{ALGORITHM}\n{date}\n{scope}\n{}", hex(hash.as_ref())));
    let text = text.strip_suffix('0').unwrap().to_owned() + &signature;
    parts.headers.insert(AUTHORIZATION, text.parse().unwrap());
}

/// The signature that goes to the server for what a workspace has signed with its placeholder.
fn signature(mut parts: Parts, keys: &Keys<'_>, scope: &str, signed: &str) -> String {
    signed_with(&mut parts, keys.access_key_id, keys.placeholder, scope, signed);
    let before = parts.headers[AUTHORIZATION].to_str().unwrap().to_owned();
    resign(&mut parts, keys, time_of(keys)).unwrap();
    assert!(parts.headers[AUTHORIZATION].is_sensitive());
    let after = parts.headers[AUTHORIZATION].to_str().unwrap();
    let (head, signature) = after.split_once("Signature=").unwrap();
    assert!(before.starts_with(head), "{before} became {after}");
    signature.to_owned()
}

#[test]
fn the_published_examples_have_the_published_signatures() {
    let date = ("x-amz-date", "20150830T123600Z");
    let host = ("host", "example.amazonaws.com");
    for (method, uri, expected) in [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ] {
        let parts = request(method, uri, &[host, date], b"");
        assert_eq!(signature(parts, &SUITE, SCOPE_SUITE, "host;x-amz-date"), expected, "{method} {uri}");
    }
}

#[test]
fn so_have_those_of_s3() {
    let host = ("host", "examplebucket.s3.amazonaws.com");
    let date = ("x-amz-date", "20130524T000000Z");
    let empty = ("x-amz-content-sha256", EMPTY);
    let get = request("GET", "/test.txt", &[host, date, empty, ("range", "bytes=0-9")], b"");
    assert_eq!(
        signature(get, &S3, SCOPE_S3, "host;range;x-amz-content-sha256;x-amz-date"),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
    let put = request(
        "PUT",
        "/test$file.text",
        &[
            host,
            date,
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
            ("x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"),
        ],
        b"",
    );
    assert_eq!(
        signature(put, &S3, SCOPE_S3, "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class"),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
    for (uri, expected) in [
        ("/?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let list = request("GET", uri, &[host, date, empty], b"");
        let signed = "host;x-amz-content-sha256;x-amz-date";
        assert_eq!(signature(list, &S3, SCOPE_S3, signed), expected, "{uri}");
    }
}

fn refused(spoil: impl FnOnce(&mut Parts), now: SystemTime) -> &'static str {
    let headers =
        [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z"), ("x-amz-a", "1  2")];
    let mut parts = request("POST", "/a%20b", &headers, b"words");
    signed_with(&mut parts, SUITE.access_key_id, SUITE.placeholder, SCOPE_SUITE, "host;x-amz-a;x-amz-date");
    resign(&mut parts.clone(), &SUITE, time_of(&SUITE)).unwrap();
    spoil(&mut parts);
    let before = parts.headers.clone();
    let reason = resign(&mut parts, &SUITE, now).unwrap_err();
    assert_eq!(parts.headers, before);
    reason
}

fn set(parts: &mut Parts, name: &'static str, value: &str) {
    parts.headers.insert(name, value.parse().unwrap());
}

#[test]
fn only_what_the_placeholder_has_signed_is_signed() {
    let now = time_of(&SUITE);
    let not_ours = "not signed with the placeholder";
    assert!(refused(|parts| set(parts, "x-amz-a", "other"), now).contains(not_ours));
    assert!(refused(|parts| parts.uri = "/other".parse().unwrap(), now).contains(not_ours));
    assert!(refused(|parts| parts.method = http::Method::DELETE, now).contains(not_ours));
    assert!(refused(|parts| drop(parts.extensions.insert(BodyHash::of(b"other"))), now).contains(not_ours));
    let with = |secret: &'static [u8]| {
        move |parts: &mut Parts| {
            signed_with(parts, SUITE.access_key_id, secret, SCOPE_SUITE, "host;x-amz-date");
        }
    };
    assert!(refused(with(b"a key of the tenant's own"), now).contains(not_ours));
    let other = |parts: &mut Parts| {
        signed_with(parts, "AKIDOTHER", SUITE.placeholder, SCOPE_SUITE, "host;x-amz-date");
    };
    assert!(refused(other, now).contains("another access key"));
}

#[test]
fn what_is_not_plainly_signed_is_refused() {
    let now = time_of(&SUITE);
    let authorization = |text: &'static str| move |parts: &mut Parts| set(parts, "authorization", text);
    assert!(refused(|parts| drop(parts.headers.remove(AUTHORIZATION)), now).contains("not signed"));
    let twice = |parts: &mut Parts| {
        parts.headers.append(AUTHORIZATION, "x".parse().unwrap());
    };
    assert!(refused(twice, now).contains("one Authorization"));
    for text in [
        "Bearer x",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/aws4_request, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=x-amz-date, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host, Signature=0, Signature=1",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-none, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=connection;host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150831/us-east-1/service/aws4_request, SignedHeaders=host, Signature=0",
    ] {
        refused(authorization(text), now);
    }
    for (name, value) in [
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("x-amz-content-sha256", "zz"),
        ("x-amz-date", "yesterday"),
        ("x-amz-date", "20150830T993600Z"),
    ] {
        refused(|parts| set(parts, name, value), now);
    }
}

#[test]
fn a_signature_for_another_time_is_refused() {
    let now = 1_440_938_160;
    for off in [now - 901, now + 901, 0] {
        assert!(refused(|_| {}, at(off)).contains("another time"), "{off}");
    }
}
