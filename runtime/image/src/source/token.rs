//! How a registry wants to be asked: its challenge, and the token that is fetched for it. Pure; what comes in is bounded by
//! the caller.

use reqwest::{RequestBuilder, Url};
use serde::Deserialize;

use crate::registries::Credentials;

/// What is sent along with each request.
#[derive(Clone, PartialEq)]
pub(crate) enum Access {
    Anonymous,
    Basic(Credentials),
    Bearer(String),
}

impl Access {
    pub(crate) fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Anonymous => request,
            Self::Basic(Credentials { username, password }) => request.basic_auth(username, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }

    /// Whether the registry may have been content with it once and be so no longer.
    pub(crate) fn may_run_out(&self) -> bool {
        matches!(self, Self::Bearer(_))
    }
}

/// Where a token is to be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    realm: String,
    service: Option<String>,
}

impl Challenge {
    /// The first of the headers `WWW-Authenticate` that asks for a token.
    pub(crate) fn of<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        headers.filter_map(Self::parse).next()
    }

    fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        let mut rest = rest.trim();
        while let Some((key, after)) = rest.split_once('=') {
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                _ => {}
            }
            rest = next.trim_start_matches([',', ' ']);
        }
        Some(Self { realm: realm?, service })
    }

    /// Where to ask for a token to read a repository. A registry over TLS does not send credentials elsewhere in the clear.
    pub(crate) fn url(&self, repository: &str, plain: bool) -> Result<Url, String> {
        let mut url =
            Url::parse(&self.realm).map_err(|e| format!("its token service has no valid URL: {e}"))?;
        match url.scheme() {
            "https" => {}
            "http" if plain => {}
            other => return Err(format!("its token service is to be reached over {other:?}")),
        }
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{repository}:pull"));
        drop(query);
        Ok(url)
    }
}

/// The token in the answer of a token service.
pub(crate) fn parse(answer: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer: Answer =
        serde_json::from_slice(answer).map_err(|e| format!("its token service answered: {e}"))?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
    token.ok_or_else(|| "its token service answered without a token".to_owned())
}

/// What a registry says of a refusal, for people: the first error of the list that it should be, else whatever it is.
pub(crate) fn words(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        errors: Vec<Reason>,
    }
    #[derive(Deserialize)]
    struct Reason {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { errors }) if !errors.is_empty() => format!("{}: {}", errors[0].code, errors[0].message),
        _ => String::from_utf8_lossy(body).into_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.example/token?x=1",service="registry.example", scope="repository:a:pull""#;
        let challenge = Challenge::of(["Basic realm=\"x\"", header].into_iter()).unwrap();
        assert_eq!(challenge.service.as_deref(), Some("registry.example"));
        let url = challenge.url("a/b", false).unwrap();
        assert_eq!(
            url.as_str(),
            "https://auth.example/token?x=1&service=registry.example&scope=repository%3Aa%2Fb%3Apull"
        );
        let bare = Challenge::of(["bearer realm=https://a/t,service=s"].into_iter()).unwrap();
        assert_eq!((bare.realm.as_str(), bare.service.as_deref()), ("https://a/t", Some("s")));
        for none in ["Basic realm=\"x\"", "Bearer", "Bearer service=\"s\"", "Bearer realm=\"open", ""] {
            assert_eq!(Challenge::of([none].into_iter()), None, "{none}");
        }
    }

    #[test]
    fn credentials_stay_on_tls() {
        let challenge = |realm: &str| Challenge { realm: realm.into(), service: None };
        assert!(challenge("http://auth.example/token").url("a", false).is_err());
        assert!(challenge("http://auth.example/token").url("a", true).is_ok());
        assert!(challenge("file:///etc/passwd").url("a", true).is_err());
        assert!(challenge("no url").url("a", true).is_err());
    }

    #[test]
    fn tokens_and_refusals_are_read() {
        assert_eq!(parse(br#"{"token": "t", "expires_in": 300}"#).unwrap(), "t");
        assert_eq!(parse(br#"{"access_token": "a"}"#).unwrap(), "a");
        for bad in ["", "{}", r#"{"token": ""}"#, r#"{"token": 5}"#] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(words(br#"{"errors":[{"code":"DENIED","message":"no"}]}"#), "DENIED: no");
        assert_eq!(words(b"plain words"), "plain words");
    }
}
