//! Requests that are signed instead of carrying their credential (AWS Signature Version 4).
//!
//! The workspace signs with the placeholder as its secret key. The signature is checked, which shows that both sides read the
//! request alike, and one made with the real key takes its place. Nothing else of the request changes.

use std::fmt::Write as _;
use std::time::SystemTime;

use cordium_egress::path::{escaped, is_unreserved};
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::request::Parts;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use ring::{digest, hmac};

use super::hop;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const CONTENT_SHA256: &str = "x-amz-content-sha256";
const DATE: &str = "x-amz-date";
/// How far the request's clock may be off, as at AWS. A signature for later would outlive the revocation of its key.
const SKEW_SECONDS: u64 = 15 * 60;
const MAX_SIGNED: usize = 64;

/// The hash of a request's body, put there by whoever has read it.
#[derive(Clone)]
pub(super) struct BodyHash(String);

impl BodyHash {
    pub(super) fn of(body: &[u8]) -> Self {
        Self(hex(digest::digest(&digest::SHA256, body).as_ref()))
    }
}

/// The keys of one binding.
pub(super) struct Keys<'a> {
    pub access_key_id: &'a str,
    pub placeholder: &'a [u8],
    pub value: &'a [u8],
}

/// Whether the body must be read before a request can be signed: it is signed, and does not say its hash.
pub(super) fn needs_body(parts: &Parts) -> bool {
    let signed = parts.headers.get(AUTHORIZATION);
    signed.is_some_and(|value| value.as_bytes().starts_with(ALGORITHM.as_bytes()))
        && !parts.headers.contains_key(CONTENT_SHA256)
}

/// Puts the signature of the real key in place of the placeholder's, or says why not.
pub(super) fn resign(parts: &mut Parts, keys: &Keys<'_>, now: SystemTime) -> Result<(), &'static str> {
    let mut authorizations = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (authorizations.next(), authorizations.next()) else {
        return Err("the request is not signed in one Authorization header");
    };
    let text = value.to_str().map_err(|_| "the request's Authorization is malformed")?.to_owned();
    let claim = Claim::read(&text)?;
    if claim.access_key_id != keys.access_key_id {
        return Err("the request is signed for another access key");
    }
    let date = one(parts, DATE).ok_or("the request has no X-Amz-Date")?;
    check_date(date, claim.date, now)?;
    let canonical = canonical(parts, &claim)?;
    let to_sign = format!(
        "{ALGORITHM}\n{date}\n{}\n{}",
        claim.scope,
        hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
    );
    if claim.sign(keys.placeholder, &to_sign) != claim.signature {
        return Err(
            "the request is not signed with the placeholder, or what it signs has been changed on its way",
        );
    }
    let begin = text.strip_suffix(claim.signature).ok_or("the request's Authorization is malformed")?;
    let made = format!("{begin}{}", claim.sign(keys.value, &to_sign));
    let mut made = HeaderValue::from_str(&made).map_err(|_| "the request's Authorization is malformed")?;
    made.set_sensitive(true);
    parts.headers.insert(AUTHORIZATION, made);
    Ok(())
}

/// What an Authorization header says.
struct Claim<'a> {
    access_key_id: &'a str,
    /// `DATE/REGION/SERVICE/aws4_request`.
    scope: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    signed: Vec<&'a str>,
    /// The last part of the header.
    signature: &'a str,
}

impl<'a> Claim<'a> {
    fn read(text: &'a str) -> Result<Self, &'static str> {
        const MALFORMED: &str = "the request's Authorization is no signature of version 4 in its usual form";
        let rest = text.strip_prefix(ALGORITHM).ok_or("the request is not signed with AWS4-HMAC-SHA256")?;
        let mut fields = rest.split(',').map(str::trim);
        let mut field = |name: &str| {
            let value = fields.next()?.strip_prefix(name)?.strip_prefix('=')?;
            (!value.is_empty()).then_some(value)
        };
        let (credential, signed, signature) =
            (field("Credential"), field("SignedHeaders"), field("Signature"));
        let (Some(credential), Some(signed), Some(signature), None) =
            (credential, signed, signature, fields.next())
        else {
            return Err(MALFORMED);
        };
        let (access_key_id, scope) = credential.split_once('/').ok_or(MALFORMED)?;
        let mut pieces = scope.split('/');
        let (Some(date), Some(region), Some(service), Some("aws4_request"), None) =
            (pieces.next(), pieces.next(), pieces.next(), pieces.next(), pieces.next())
        else {
            return Err(MALFORMED);
        };
        let signed: Vec<&str> = signed.split(';').collect();
        if signed.len() > MAX_SIGNED || !signed.is_sorted_by(|one, next| one < next) {
            return Err("the request's signed headers are not in order, each once, at most 64");
        }
        if !signed.contains(&"host") {
            return Err("the request's Host is not signed");
        }
        Ok(Self { access_key_id, scope, date, region, service, signed, signature })
    }

    fn sign(&self, secret: &[u8], to_sign: &str) -> String {
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &zeroize::Zeroizing::new([b"AWS4", secret].concat()));
        for piece in [self.date, self.region, self.service, "aws4_request"] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, piece.as_bytes()).as_ref());
        }
        hex(hmac::sign(&key, to_sign.as_bytes()).as_ref())
    }
}

fn check_date(date: &str, day: &str, now: SystemTime) -> Result<(), &'static str> {
    if !date.starts_with(day) || day.len() != 8 {
        return Err("the request's X-Amz-Date is not of the day that it is signed for");
    }
    let wrong = "the request's X-Amz-Date is no date such as 20260102T030405Z";
    let then = DateTime::strptime("%Y%m%dT%H%M%SZ", date).map_err(|_| wrong)?;
    let then = TimeZone::UTC.to_timestamp(then).map_err(|_| wrong)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    if then.as_second().abs_diff(i64::try_from(now).unwrap_or(i64::MAX)) > SKEW_SECONDS {
        return Err("the request is signed for another time: more than 15 minutes from now");
    }
    Ok(())
}

/// The text whose hash is signed.
fn canonical(parts: &Parts, claim: &Claim<'_>) -> Result<String, &'static str> {
    let mut text = format!("{}\n", parts.method);
    // Of all services, S3 alone takes the path as it is.
    path(parts.uri.path(), !claim.service.starts_with("s3"), &mut text)?;
    text.push('\n');
    query(parts.uri.query().unwrap_or_default(), &mut text)?;
    text.push('\n');
    for name in &claim.signed {
        if hop::is_for_one_connection(name) {
            return Err("the request signs a header that is for one connection only");
        }
        let _ = write!(text, "{name}:");
        header(parts, name, &mut text)?;
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&claim.signed.join(";"));
    text.push('\n');
    text.push_str(payload(parts)?);
    Ok(text)
}

fn path(path: &str, twice: bool, text: &mut String) -> Result<(), &'static str> {
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            text.push('/');
        }
        let plain = unescaped(segment)?;
        match twice {
            true => escape(escape_to_string(&plain).as_bytes(), text),
            false => escape(&plain, text),
        }
    }
    Ok(())
}

fn query(query: &str, text: &mut String) -> Result<(), &'static str> {
    let mut pairs = Vec::new();
    for piece in query.split('&').filter(|piece| !piece.is_empty()) {
        let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
        pairs.push((escape_to_string(&unescaped(name)?), escape_to_string(&unescaped(value)?)));
    }
    pairs.sort();
    for (index, (name, value)) in pairs.iter().enumerate() {
        let joint = if index == 0 { "" } else { "&" };
        let _ = write!(text, "{joint}{name}={value}");
    }
    Ok(())
}

fn header(parts: &Parts, name: &str, text: &mut String) -> Result<(), &'static str> {
    let mut values = parts.headers.get_all(name).iter().peekable();
    if values.peek().is_none() {
        let authority = parts.uri.authority().filter(|_| name == HOST.as_str());
        text.push_str(authority.ok_or("the request signs a header that it does not have")?.as_str());
        return Ok(());
    }
    for (index, value) in values.enumerate() {
        let value = value.to_str().map_err(|_| "the request signs a header that is not ASCII")?;
        if index > 0 {
            text.push(',');
        }
        for (index, word) in value.split(' ').filter(|word| !word.is_empty()).enumerate() {
            if index > 0 {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
    Ok(())
}

/// What stands for the body in the text.
fn payload(parts: &Parts) -> Result<&str, &'static str> {
    match (one(parts, CONTENT_SHA256), parts.extensions.get::<BodyHash>()) {
        (Some(hash @ ("UNSIGNED-PAYLOAD" | "STREAMING-UNSIGNED-PAYLOAD-TRAILER")), _) => Ok(hash),
        (Some(hash), _) if hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(hash),
        (Some(_), _) => {
            Err("the request's body is signed piece by piece, or its X-Amz-Content-Sha256 is no hash")
        }
        (None, Some(hash)) => Ok(&hash.0),
        (None, None) => Err("the request's body has not been read"),
    }
}

/// A header that is there once.
fn one<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let mut values = parts.headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn unescaped(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => escaped([bytes.next(), bytes.next()])
                .ok_or("the request has a percent sign without two digits")?,
            byte => byte,
        });
    }
    Ok(plain)
}

fn escape_to_string(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    escape(bytes, &mut text);
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        match is_unreserved(*byte) {
            true => text.push(char::from(*byte)),
            false => drop(write!(text, "%{byte:02X}")),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
