//! Where a request says that it goes: it must be the host of the connection, in one way only.

use cordium_egress::Host;
use http::header::HOST;
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Method, Version};

/// Checks that every name in the request is `host`, on `port`, and leaves the target in the form that a server expects.
pub(super) fn check(parts: &mut Parts, host: &Host, port: u16, scheme: &Scheme) -> Result<(), &'static str> {
    if parts.method == Method::CONNECT {
        return Err("CONNECT leads to a host that is not checked");
    }
    let mut named = false;
    if let Some(authority) = parts.uri.authority() {
        if parts.uri.scheme() != Some(scheme) {
            return Err("the request's target has another scheme than the connection");
        }
        is_host(authority.as_str(), host, port)?;
        named = true;
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    if let Some(value) = hosts.next() {
        let text = value.to_str().map_err(|_| "the request's Host is malformed")?;
        is_host(text, host, port)?;
        named = true;
    } else if parts.version < Version::HTTP_2 {
        return Err("the request has no Host");
    }
    if hosts.next().is_some() {
        return Err("the request has more than one Host");
    }
    if !named {
        return Err("the request names no host");
    }
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if !path.as_str().starts_with('/') {
        return Err("the request's target is no path");
    }
    if parts.version < Version::HTTP_2 {
        // The form that every server understands (RFC 9112 §3.2.1).
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
    }
    Ok(())
}

/// `NAME[:PORT]`, where no port is that of the connection: servers do not all add it.
fn is_host(text: &str, host: &Host, port: u16) -> Result<(), &'static str> {
    let (name, named_port) = match text.split_once(':') {
        Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            (name, digits.parse::<u16>().ok())
        }
        Some(_) => return Err("the request's Host is malformed"),
        None => (text, Some(port)),
    };
    if Host::parse(name).is_ok_and(|name| name == *host) && named_port == Some(port) {
        Ok(())
    } else {
        Err("the request's Host is not the name that the connection was opened for")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;

    fn checked(version: Version, uri: &str, hosts: &[&str]) -> Result<String, &'static str> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        check(&mut parts, &Host::parse("a.example").unwrap(), 443, &Scheme::HTTPS)
            .map(|()| parts.uri.to_string())
    }

    #[test]
    fn all_names_must_be_the_connections() {
        let one = |uri, hosts: &[&str]| checked(Version::HTTP_11, uri, hosts);
        assert_eq!(one("/x?y", &["a.example"]).as_deref(), Ok("/x?y"));
        assert_eq!(one("/", &["A.Example:443"]).as_deref(), Ok("/"));
        assert_eq!(one("https://a.example/x", &["a.example"]).as_deref(), Ok("/x"));
        for (uri, hosts) in [
            ("/", &[][..]),
            ("/", &["b.example"]),
            ("/", &["a.example", "a.example"]),
            ("/", &["a.example", "b.example"]),
            ("/", &["a.example:80"]),
            ("/", &["a.example:"]),
            ("/", &["a.example:99999"]),
            ("/", &["a.example@b.example"]),
            ("/", &["a.example,b.example"]),
            ("/", &["a.example/x"]),
            ("/", &["b.example#a.example"]),
            ("https://b.example/", &["a.example"]),
            ("https://a.example/", &["b.example"]),
            ("https://user@a.example/", &["a.example"]),
            ("http://a.example/", &["a.example"]),
            ("*", &["a.example"]),
        ] {
            assert!(one(uri, hosts).is_err(), "{uri} {hosts:?}");
        }
        let two = |uri, hosts: &[&str]| checked(Version::HTTP_2, uri, hosts);
        assert_eq!(two("https://a.example/x", &[]).as_deref(), Ok("https://a.example/x"));
        assert_eq!(two("https://a.example/x", &["a.example"]).as_deref(), Ok("https://a.example/x"));
        assert!(two("https://b.example/x", &[]).is_err());
        assert!(two("https://a.example/x", &["b.example"]).is_err());
        assert!(two("/x", &[]).is_err());
        assert_eq!(one("*", &["a.example"]), Err("the request's target is no path"));
    }

    #[test]
    fn connect_is_refused() {
        let request = Request::connect("a.example:443").header(HOST, "a.example").body(()).unwrap();
        assert!(
            check(&mut request.into_parts().0, &Host::parse("a.example").unwrap(), 443, &Scheme::HTTPS)
                .is_err()
        );
    }
}
