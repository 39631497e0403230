//! Headers that are for one connection and not for the next (RFC 9110 §7.6.1), and the one upgrade that is passed on.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether a header, in small letters, does not go on.
pub(super) fn is_for_one_connection(name: &str) -> bool {
    [
        CONNECTION,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        UPGRADE,
        EXPECT,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
    ]
    .iter()
    .any(|other| other == name)
}

/// Whether the message is about to become a WebSocket.
pub(super) fn is_web_socket(headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(UPGRADE).iter();
    let named = upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    named && upgrades.next().is_none() && has_token(headers, &CONNECTION, "upgrade")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|piece| piece.trim().eq_ignore_ascii_case(token))
}

/// Removes what is for this connection only. A WebSocket's own stay; any other upgrade would lead to bytes that nobody checks.
pub(super) fn strip(headers: &mut HeaderMap, web_socket: bool) {
    let trailers = has_token(headers, &TE, "trailers");
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|piece| HeaderName::from_bytes(piece.trim().as_bytes()).ok())
        // Those say where the message ends.
        .filter(|name| *name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != http::header::HOST)
        .collect();
    for name in
        named.iter().chain(&[CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, UPGRADE, EXPECT, TE])
    {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if web_socket {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// A request whose end two readers could see in two places.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.contains_key(TRANSFER_ENCODING) {
        if headers.contains_key(CONTENT_LENGTH) {
            return Err("the request has both Content-Length and Transfer-Encoding");
        }
        let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
        let chunked = encodings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || encodings.next().is_some() {
            return Err("the request's Transfer-Encoding is not chunked alone");
        }
    }
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err("the request has more than one Content-Length");
    }
    if has_token(headers, &TRAILER, "authorization") || has_token(headers, &TRAILER, "transfer-encoding") {
        return Err("the request announces trailers that belong into its head");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut made = HeaderMap::new();
        for (name, value) in list.iter().map(pair) {
            made.append(name, value);
        }
        made
    }

    #[test]
    fn what_is_for_one_connection_does_not_go_on() {
        let mut one = headers(&[
            ("connection", "close, X-Private"),
            ("connection", "content-length"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("te", "gzip, trailers"),
            ("content-length", "3"),
            ("x", "y"),
        ]);
        assert!(!is_web_socket(&one));
        strip(&mut one, false);
        assert_eq!(one, headers(&[("te", "trailers"), ("content-length", "3"), ("x", "y")]));
        let mut socket = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]);
        assert!(is_web_socket(&socket));
        strip(&mut socket, true);
        assert_eq!(socket, headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]));
        for other in [
            headers(&[("connection", "Upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")]),
            headers(&[("connection", "Upgrade"), ("upgrade", "h2c, websocket")]),
            headers(&[("upgrade", "websocket")]),
        ] {
            assert!(!is_web_socket(&other), "{other:?}");
        }
    }

    #[test]
    fn framing_is_told_in_one_way() {
        for good in [&[][..], &[("content-length", "3")], &[("transfer-encoding", "Chunked")]] {
            assert_eq!(check_framing(&headers(good)), Ok(()), "{good:?}");
        }
        for bad in [
            &[("content-length", "3"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "3"), ("content-length", "3")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "identity")],
            &[("transfer-encoding", "identity")],
            &[("trailer", "X, Authorization")],
        ] {
            assert!(check_framing(&headers(bad)).is_err(), "{bad:?}");
        }
    }
}
