//! Repository addresses: what may be fetched, and credentials taken out of them.

/// What opens a repository; only for the host that it was given for.
#[derive(Clone, PartialEq, Eq)]
pub struct Access {
    pub scheme: String,
    /// With its port, if one was written.
    pub host: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Access({}://{})", self.scheme, self.host)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("repository address `{0}` must begin with https:// or http://")]
    Scheme(String),
    #[error("repository address `{0}` has no host")]
    Host(String),
    #[error("a repository address holds a blank or a control character")]
    Characters,
}

/// The address without user information, and the access that it or the caller gave.
pub fn split(url: &str, username: &str, password: &str) -> Result<(String, Option<Access>), UrlError> {
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Characters);
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| UrlError::Scheme(url.to_owned()))?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "https" && scheme != "http" {
        return Err(UrlError::Scheme(format!("{scheme}://…")));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user_info, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    let clean = format!("{scheme}://{host}{path}");
    if host.is_empty() || host.starts_with('-') {
        return Err(UrlError::Host(clean));
    }
    let (url_user, url_password) = user_info.map(user_and_password).unwrap_or_default();
    let pick = |given: &str, found: String| if given.is_empty() { found } else { given.to_owned() };
    let (username, password) = (pick(username, url_user), pick(password, url_password));
    let access = (!username.is_empty() || !password.is_empty()).then(|| Access {
        scheme,
        host: host.to_ascii_lowercase(),
        username,
        password,
    });
    Ok((clean, access))
}

fn user_and_password(text: &str) -> (String, String) {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    (percent_decoded(user), percent_decoded(password))
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let decoded = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        out.push(decoded.unwrap_or(*first));
        rest = if decoded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn user_information_is_taken_out() {
        let (url, access) = split("https://me:p%40ss@Git.example:8443/a/b.git?x=1", "", "").unwrap();
        assert_eq!(url, "https://Git.example:8443/a/b.git?x=1");
        let access = access.unwrap();
        assert_eq!(
            (access.host.as_str(), access.username.as_str(), access.password.as_str()),
            ("git.example:8443", "me", "p@ss")
        );
        assert!(!format!("{access:?}").contains("p@ss"));
    }

    #[test]
    fn what_the_caller_gives_wins() {
        let access = split("http://me:old@h/x", "", "new").unwrap().1.unwrap();
        assert_eq!((access.username.as_str(), access.password.as_str()), ("me", "new"));
        assert_eq!(split("http://h/x", "", "").unwrap(), ("http://h/x".into(), None));
    }

    #[test]
    fn other_schemes_and_odd_text_are_refused() {
        for url in [
            "file:///etc",
            "ext::sh -c x",
            "-upload-pack=x",
            "ssh://h/x",
            "git@h:x",
            "https://",
            "https:///x",
            "http://-oProxy/x",
            "http://h/a b",
            "http://h/\nx",
        ] {
            assert!(split(url, "", "").is_err(), "{url}");
        }
    }

    #[test]
    fn broken_percent_signs_stay() {
        assert_eq!(percent_decoded("a%zz%4"), "a%zz%4");
    }
}
