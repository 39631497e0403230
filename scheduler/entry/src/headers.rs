//! What of a message is for the entry and not for the workspace: the token, and what belongs to one connection only
//! (RFC 9110 §7.6.1).

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE},
    uri::PathAndQuery,
};

/// The name of the parameter and of the cookie.
pub const TOKEN: &str = "cordium_token";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes tokens out of the query. Without any, the target stays as it was written.
pub fn take_parameters(uri: &Uri) -> (PathAndQuery, Vec<String>) {
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let Some(query) = target.query() else { return (target, Vec::new()) };
    let mut tokens = Vec::new();
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            (TOKEN, token) => tokens.push(token.to_owned()),
            _ => rest.push(pair),
        }
    }
    if tokens.is_empty() {
        return (target, tokens);
    }
    let mut text = target.path().to_owned();
    if !rest.is_empty() {
        text.push('?');
        text.push_str(&rest.join("&"));
    }
    // Parts of what has been parsed.
    (text.parse().unwrap_or_else(|_| PathAndQuery::from_static("/")), tokens)
}

/// Takes tokens out of the cookies; those of the workspace stay.
pub fn take_cookies(headers: &mut HeaderMap) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest: Vec<HeaderValue> = Vec::new();
    for value in headers.get_all(COOKIE) {
        let is_token = |pair: &&[u8]| name(pair) == TOKEN.as_bytes();
        let pairs = value.as_bytes().split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let (taken, kept): (Vec<&[u8]>, Vec<&[u8]>) = pairs.partition(is_token);
        tokens.extend(taken.iter().filter_map(|pair| {
            let value = pair.get(TOKEN.len() + 1..)?.trim_ascii();
            Some(std::str::from_utf8(value).ok()?.trim_matches('"').to_owned())
        }));
        if taken.is_empty() {
            rest.push(value.clone());
        } else if !kept.is_empty() {
            rest.extend(HeaderValue::from_bytes(&kept.join(b"; ".as_slice())));
        }
    }
    headers.remove(COOKIE);
    for value in rest {
        headers.append(COOKIE, value);
    }
    tokens
}

fn name(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii()
}

/// The cookie is the entry's: a workspace neither sets nor clears it.
pub fn keep_cookie(headers: &mut HeaderMap) {
    let all: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().cloned().collect();
    headers.remove(SET_COOKIE);
    for value in all {
        if name(value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default()) != TOKEN.as_bytes() {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// Whether the message is about to become a WebSocket.
pub fn is_web_socket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let named = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let upgrades_it = connection(headers).any(|name| name == UPGRADE);
    named && upgrades.next().is_none() && upgrades_it
}

fn connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let texts = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
}

/// Removes what is for this connection only; a WebSocket's own stay.
pub fn strip(headers: &mut HeaderMap, web_socket: bool) {
    // Those say where the message ends, or whose it is.
    let kept = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, COOKIE];
    let named: Vec<HeaderName> = connection(headers).filter(|name| !kept.contains(name)).collect();
    let always = [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHORIZATION, UPGRADE, EXPECT, TE];
    for name in named.iter().chain(&always) {
        headers.remove(name);
    }
    if web_socket {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// An answer ends where its chunks end, whatever length it says beside.
pub fn answered(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut made = HeaderMap::new();
        for (name, value) in list {
            made.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        made
    }

    #[test]
    fn tokens_leave_the_query_and_nothing_else_does() {
        for (uri, rest, tokens) in [
            ("/a?b=c&d", "/a?b=c&d", &[][..]),
            ("/a?cordium_token=t", "/a", &["t"]),
            ("/a?x=1&cordium_token=t&y=%20&cordium_token", "/a?x=1&y=%20", &["t", ""]),
            ("/?my_cordium_token=t", "/?my_cordium_token=t", &[]),
            ("//a/?cordium_token=t", "//a/", &["t"]),
        ] {
            let (target, taken) = take_parameters(&uri.parse().unwrap());
            assert_eq!(
                (target.as_str(), taken),
                (rest, tokens.iter().map(|t| (*t).to_owned()).collect()),
                "{uri}"
            );
        }
    }

    #[test]
    fn tokens_leave_the_cookies_and_nothing_else_does() {
        let mut one = headers(&[
            ("cookie", "a=b; cordium_token=t1;c=d"),
            ("cookie", "cordium_token=\"t2\""),
            ("cookie", "x=\u{e4}; cordium_tokens=no"),
        ]);
        assert_eq!(take_cookies(&mut one), ["t1", "t2"]);
        assert_eq!(one, headers(&[("cookie", "a=b; c=d"), ("cookie", "x=\u{e4}; cordium_tokens=no")]));
        let mut answer = headers(&[("set-cookie", "cordium_token=mine; Path=/"), ("set-cookie", "s=1")]);
        keep_cookie(&mut answer);
        assert_eq!(answer, headers(&[("set-cookie", "s=1")]));
    }

    #[test]
    fn what_is_for_one_connection_does_not_go_on() {
        let mut one = headers(&[
            ("connection", "close, X-Private, host, cookie"),
            ("x-private", "1"),
            ("host", "h"),
            ("cookie", "a=b"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic x"),
            ("content-length", "3"),
        ]);
        assert!(!is_web_socket(&one));
        strip(&mut one, false);
        assert_eq!(one, headers(&[("host", "h"), ("cookie", "a=b"), ("content-length", "3")]));
        let mut socket = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(is_web_socket(&socket));
        strip(&mut socket, true);
        assert_eq!(socket, headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
        assert!(!is_web_socket(&headers(&[("connection", "upgrade"), ("upgrade", "h2c, websocket")])));
    }
}
