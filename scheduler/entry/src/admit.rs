//! Whether a client may reach what it names.

use cordium_proto::v1::{GetRequest, Kind, WorkspaceState};
use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{HeaderValue, ORIGIN},
};
use tonic::Code;

use crate::{Shared, answer::Refusal, target::Target};

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// What a request has to show.
#[derive(Default)]
pub struct Shown {
    /// From its address.
    pub tokens: Vec<String>,
    pub cookies: Vec<String>,
}

/// A workspace that the client may reach.
pub struct Workspace {
    pub uid: String,
    pub state: WorkspaceState,
    /// By a token in the address, not only by a cookie.
    pub by_token: bool,
}

impl Shared {
    /// A name that does not exist and a token that does not fit look the same.
    pub async fn admit(&self, target: &Target, shown: &Shown) -> Result<Workspace, Refusal> {
        let refused = || {
            let reason = "this address needs the workspace's token, once: then a cookie has it";
            let next = format!("cordium open {} {}", target.workspace, target.port);
            Refusal::new(StatusCode::UNAUTHORIZED, reason, next)
        };
        if shown.tokens.is_empty() && shown.cookies.is_empty() {
            return Err(refused());
        }
        let request = GetRequest {
            kind: Kind::Workspace.into(),
            r#ref: target.workspace.clone(),
            space: String::new(),
        };
        let found = match self.control().get(request).await {
            Ok(found) => found.into_inner(),
            Err(status) if matches!(status.code(), Code::NotFound | Code::InvalidArgument) => {
                return Err(refused());
            }
            Err(status) => {
                tracing::warn!(error = status.message(), "the HTTP entry cannot look up a workspace");
                let reason = "the workspace cannot be looked up";
                return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason, "try again"));
            }
        };
        let uid = found.metadata.unwrap_or_default().uid;
        let by_token = shown.tokens.iter().any(|token| self.key.is_token(&uid, token));
        let by_cookie = || shown.cookies.iter().any(|cookie| self.key.is_cookie(&uid, &target.host, cookie));
        if !by_token && !by_cookie() {
            return Err(refused());
        }
        let state = found.status.map_or(WorkspaceState::Unknown, |status| status.state());
        Ok(Workspace { uid, state, by_token })
    }
}

/// Whether another site's page made a browser ask, other than by going there. Browsers that know `SameSite` send no cookie
/// then; those of a page of another port of the same host they do send.
pub fn is_foreign(headers: &HeaderMap, host: &str) -> bool {
    let is = |name: &HeaderName, fits: &dyn Fn(&[u8]) -> bool| {
        headers.get_all(name).iter().map(HeaderValue::as_bytes).any(fits)
    };
    let own = |origin: &[u8]| {
        let own = [b"http://", host.as_bytes()].concat();
        // A page that tells nobody where it is, not even itself.
        origin.eq_ignore_ascii_case(&own) || origin == b"null"
    };
    let elsewhere = |site: &[u8]| site == b"cross-site" || site == b"same-site";
    is(&ORIGIN, &|origin| !own(origin))
        || (is(&FETCH_SITE, &elsewhere) && !is(&FETCH_MODE, &|mode| mode == b"navigate"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_of_other_origins_are_foreign_but_for_links() {
        let foreign = |list: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in list {
                headers.append(*name, value.parse().unwrap());
            }
            is_foreign(&headers, "3000-dev.localhost:7300")
        };
        assert!(!foreign(&[]));
        assert!(!foreign(&[("origin", "http://3000-dev.localhost:7300"), ("sec-fetch-site", "same-origin")]));
        assert!(!foreign(&[("origin", "http://3000-DEV.localhost:7300")]));
        assert!(!foreign(&[("origin", "null")]));
        assert!(!foreign(&[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")]));
        assert!(!foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]));
        assert!(foreign(&[("origin", "http://3000-dev.localhost:9999")]));
        assert!(foreign(&[("origin", "https://evil.example"), ("sec-fetch-mode", "navigate")]));
        assert!(foreign(&[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]));
        assert!(foreign(&[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "websocket")]));
    }
}
