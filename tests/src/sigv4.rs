//! A service that takes signed requests (AWS Signature Version 4), written from the format's description and not from the broker.

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::http::{Reply, Request};

/// `signed`, or why not.
pub fn answer(request: &Request, secret: &[u8]) -> Reply {
    match check(request, secret) {
        Ok(()) => Reply::status(200, "signed"),
        Err(problem) => Reply::status(403, problem),
    }
}

fn check(request: &Request, secret: &[u8]) -> Result<(), &'static str> {
    let authorization = request.header("authorization").ok_or("no Authorization")?;
    let (_, rest) = authorization.split_once("Credential=").ok_or("no Credential")?;
    let (credential, rest) = rest.split_once(", SignedHeaders=").ok_or("no SignedHeaders")?;
    let (signed, signature) = rest.split_once(", Signature=").ok_or("no Signature")?;
    let (_, scope) = credential.split_once('/').ok_or("no scope")?;
    let date = request.header("x-amz-date").ok_or("no X-Amz-Date")?;
    let body = hex::encode(Sha256::digest(&request.body));
    if request.header("x-amz-content-sha256").is_some_and(|hash| hash != body) {
        return Err("another body");
    }
    let mut text = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
    for name in signed.split(';') {
        text += &format!("{name}:{}\n", request.header(name).ok_or("a signed header is not there")?);
    }
    text += &format!("\n{signed}\n{body}");
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(text)));
    let first = [b"AWS4", secret].concat();
    let key = scope.split('/').try_fold(first, |key, piece| mac(&key, piece)).ok_or("no key")?;
    let expected = mac(&key, &to_sign).ok_or("no key")?;
    if hex::encode(expected) == signature { Ok(()) } else { Err("the signature does not match") }
}

fn mac(key: &[u8], text: &str) -> Option<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(text.as_bytes());
    Some(mac.finalize().into_bytes().to_vec())
}
