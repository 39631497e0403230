//! Answers that the entry gives itself: JSON, or a page for who prefers one.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY,
        SET_COOKIE,
    },
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use serde_json::json;

use crate::headers::TOKEN;

/// The workspace's body, or ours.
pub type Body = Either<Incoming, Full<Bytes>>;

/// Why a request does not reach the workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub reason: String,
    pub next: String,
}

impl Refusal {
    pub fn new(status: StatusCode, reason: impl Into<String>, next: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), next: next.into() }
    }

    pub fn response(&self, html: bool) -> Response<Body> {
        let Self { status, reason, next } = self;
        let (kind, text) = if html {
            let title = status.canonical_reason().unwrap_or("Refused");
            let (reason, next) = (escaped(reason), escaped(next));
            let text = format!(
                "<!doctype html><meta charset=utf-8><title>{title}</title>\n<h1>{title}</h1>\n<p>{reason}</p>\n<pre>{next}</pre>\n"
            );
            ("text/html; charset=utf-8", text)
        } else {
            ("application/json", format!("{}\n", json!({"error": reason, "next": next})))
        };
        let mut response = Response::new(Either::Right(Full::new(text.into())));
        *response.status_mut() = *status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        // Who may nothing cannot keep the connection by not reading what it is told.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

/// Whether a page is what the client would rather have.
pub fn wants_page(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")))
}

/// The token becomes a cookie of this host alone, and leaves the address.
pub fn remember(host: &str, target: &str, cookie: &str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::default()));
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    let cookie = format!("{TOKEN}={cookie}; Path=/; HttpOnly; SameSite=Lax");
    // Absolute: `//x` alone would be another host.
    let location = format!("http://{host}{target}");
    // Of hexadecimal digits, and of what was a header's value and a request's target.
    for (name, value) in [(SET_COOKIE, cookie), (LOCATION, location)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn refusals_are_json_or_a_page_in_which_nothing_is_markup() {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "a <b>", "do \"this\"");
        let text = async |html| {
            let response = refusal.response(html);
            assert_eq!(response.status(), 502);
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        assert_eq!(text(false).await, "{\"error\":\"a <b>\",\"next\":\"do \\\"this\\\"\"}\n");
        let page = text(true).await;
        assert!(page.contains("a &lt;b&gt;") && page.contains("&quot;this&quot;"), "{page}");
    }

    #[test]
    fn a_token_is_remembered_for_its_host_only() {
        let response = remember("3000-dev.localhost:7300", "//evil.example/?a", "t");
        assert_eq!(response.headers()[LOCATION], "http://3000-dev.localhost:7300//evil.example/?a");
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
        assert!(cookie.starts_with("cordium_token=t;") && cookie.contains("HttpOnly"), "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
}
