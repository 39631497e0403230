//! The methods and paths that a request claims: its own, and those that some servers take from headers instead.
//!
//! A request that says `POST` and means `DELETE` must be allowed as both.

use http::HeaderName;
use http::request::Parts;

const METHODS: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];
const PATHS: [HeaderName; 2] =
    [HeaderName::from_static("x-original-url"), HeaderName::from_static("x-rewrite-url")];
/// Of each.
const MOST: usize = 4;

/// Every method with every path.
pub(super) fn of(parts: &Parts) -> Result<Vec<(&str, &str)>, &'static str> {
    let mut methods = vec![parts.method.as_str()];
    methods.extend(said(parts, &METHODS)?);
    let mut paths = vec![parts.uri.path()];
    let without_query = |url: &'_ str| url.find(['?', '#']).unwrap_or(url.len());
    paths.extend(said(parts, &PATHS)?.into_iter().map(|url| &url[..without_query(url)]));
    Ok(methods.iter().flat_map(|method| paths.iter().map(|path| (*method, *path))).collect())
}

fn said<'p>(parts: &'p Parts, names: &[HeaderName]) -> Result<Vec<&'p str>, &'static str> {
    let values: Vec<_> = names.iter().flat_map(|name| parts.headers.get_all(name)).collect();
    if values.len() > MOST {
        return Err("the request claims too many other methods or paths");
    }
    let text = |value: &'p http::HeaderValue| value.to_str().map(str::trim);
    values
        .into_iter()
        .map(text)
        .collect::<Result<_, _>>()
        .map_err(|_| "a header that claims another method or path is no text")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn claims(headers: &[(&str, &str)]) -> Result<Vec<String>, &'static str> {
        let mut request = http::Request::post("/a?b=/c");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        of(&parts).map(|all| all.iter().map(|(method, path)| format!("{method} {path}")).collect())
    }

    #[test]
    fn what_a_server_may_take_from_headers_counts_too() {
        assert_eq!(claims(&[]).unwrap(), ["POST /a"]);
        let overridden = [("X-HTTP-Method-Override", " DELETE "), ("x-original-url", "/b?x#y")];
        assert_eq!(claims(&overridden).unwrap(), ["POST /a", "POST /b", "DELETE /a", "DELETE /b"]);
        assert_eq!(claims(&[("X-Rewrite-URL", "")]).unwrap(), ["POST /a", "POST "]);
        assert!(claims(&[("X-HTTP-Method", "A"); 5]).is_err());
        assert!(claims(&[("X-HTTP-Method", "\u{e9}")]).is_err());
    }
}
