//! What becomes of a request's head: the value in place of its placeholder, or a refusal. Pure.

use std::time::SystemTime;

use cordium_egress::{Host, path};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use zeroize::Zeroizing;

use super::inspection::{Bound, Inspection, Slot};
use super::replace::{self, as_basic, escape, in_header, in_query, is_in_header, is_in_query, unescape};
use super::sigv4::{self, Keys};
use super::{MAX_HEAD, target};
use crate::denials::Why;

impl Inspection {
    /// Puts the credentials of `host` on a request, or says why it must not go on. Those that are on it now come back.
    pub(super) fn apply(
        &self,
        host: &Host,
        port: u16,
        parts: &mut Parts,
        now: SystemTime,
    ) -> Result<Vec<&Bound>, Why> {
        let refuse = |rule: &str, reason, next| Err(Why { rule: rule.to_owned(), reason, next });
        if size(parts) > MAX_HEAD {
            return refuse("request", "the head of the request is longer than 64 KiB", "send less");
        }
        target::check(parts, host, port, &Scheme::HTTPS).map_err(wrong_target)?;
        let matching = match self.matching(host, parts) {
            Ok(matching) => matching,
            Err((rule, reason)) => {
                return refuse(
                    &rule,
                    reason,
                    "send the path in its plain form, or bind the credential without paths",
                );
            }
        };
        let is_matching = |bound: &Bound| matching.iter().any(|other| std::ptr::eq(*other, bound));
        for bound in &self.bindings {
            let rule = || format!("credential {}", bound.name);
            if !is_matching(bound) && stands_in(parts, &bound.placeholder) {
                let reason = "the request carries the placeholder of a credential that is not bound to it";
                return refuse(
                    &rule(),
                    reason,
                    "send it to the hosts, methods and paths of the binding only",
                );
            }
            if is_in_path(parts, &bound.placeholder) {
                let reason = "the placeholder stands in the path, where it is not replaced";
                return refuse(&rule(), reason, "send the credential in a header or in the query");
            }
        }
        if matching.is_empty() {
            let rule = self.of(host).next().map_or("credential", |bound| bound.name.as_str());
            let reason = "credentials are bound to this host, and none to this method and path";
            return refuse(
                &format!("credential {rule}"),
                reason,
                "add the method and path to a binding of this host",
            );
        }
        let mut used = Vec::new();
        for bound in matching {
            match bound.put(parts, now) {
                Ok(true) => used.push(bound),
                Ok(false) => {}
                Err(Misfit { reason, next }) => {
                    return refuse(&format!("credential {}", bound.name), reason, next);
                }
            }
        }
        if size(parts) > MAX_HEAD {
            return refuse("request", "the head of the request is longer than 64 KiB", "send less");
        }
        Ok(used)
    }

    /// Checks a request to a host without credentials, where those of other hosts are worth nothing.
    pub(super) fn pass(&self, host: &Host, port: u16, parts: &mut Parts) -> Result<(), Why> {
        target::check(parts, host, port, &Scheme::HTTPS).map_err(wrong_target)?;
        let found = self.bindings.iter().find(|bound| stands_in(parts, &bound.placeholder));
        found.map_or(Ok(()), |bound| {
            Err(Why {
                rule: format!("credential {}", bound.name),
                reason: "the request carries the placeholder of a credential that is not bound to it",
                next: "send it to the hosts, methods and paths of the binding only",
            })
        })
    }

    /// The bindings that a request is for. A path that has no plain form is refused where a binding goes by paths.
    fn matching(&self, host: &Host, parts: &Parts) -> Result<Vec<&Bound>, (String, &'static str)> {
        let mut matching = Vec::new();
        for bound in self.of(host) {
            let below = if bound.paths.is_empty() {
                true
            } else {
                let normal = path::normalise(parts.uri.path())
                    .map_err(|reason| (format!("credential {}", bound.name), reason))?;
                bound.paths.iter().any(|prefix| path::is_below(&normal, prefix))
            };
            if below && (bound.methods.is_empty() || bound.methods.contains(&parts.method)) {
                matching.push(bound);
            }
        }
        Ok(matching)
    }
}

pub(super) fn wrong_target(reason: &'static str) -> Why {
    let next = "send one Host, the one that the connection was opened for";
    Why { rule: "request".into(), reason, next }
}

fn size(parts: &Parts) -> usize {
    let headers: usize =
        parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    headers + parts.uri.path().len() + parts.uri.query().map_or(0, str::len)
}

fn stands_in(parts: &Parts, placeholder: &str) -> bool {
    let placeholder = placeholder.as_bytes();
    parts.headers.values().any(|value| is_in_header(value.as_bytes(), placeholder))
        || parts.uri.query().is_some_and(|query| is_in_query(query, placeholder))
}

fn is_in_path(parts: &Parts, placeholder: &str) -> bool {
    let path = parts.uri.path();
    [path.as_bytes(), &unescape(path)].iter().any(|path| replace::contains(path, placeholder.as_bytes()))
}

/// Why a value cannot go where it should.
#[derive(Debug)]
struct Misfit {
    reason: &'static str,
    next: &'static str,
}

const MALFORMED: Misfit = Misfit {
    reason: "the request with the credential in it is malformed",
    next: "check the value of the credential",
};

impl Bound {
    /// Replaces the placeholder; where there is none, sets what the binding says. False if the request has one of its own there.
    fn put(&self, parts: &mut Parts, now: SystemTime) -> Result<bool, Misfit> {
        let (placeholder, value) = (self.placeholder.as_bytes(), self.value.expose());
        if let Slot::SigV4 { access_key_id } = &self.inject {
            let next = "sign the request with this access key's id and the placeholder as its secret key, the body as a whole";
            let keys = Keys { access_key_id, placeholder, value };
            return sigv4::resign(parts, &keys, now).map(|()| true).map_err(|reason| Misfit { reason, next });
        }
        let mut found = false;
        for text in parts.headers.values_mut() {
            if let Some(made) = in_header(text.as_bytes(), placeholder, value) {
                *text = sensitive(&made)?;
                found = true;
            }
        }
        if let Some(made) = parts.uri.query().and_then(|query| in_query(query, placeholder, value)) {
            set_query(&mut parts.uri, &made)?;
            found = true;
        }
        if found { Ok(true) } else { self.set(parts) }
    }

    fn set(&self, parts: &mut Parts) -> Result<bool, Misfit> {
        let value = self.value.expose();
        let joined = |front: &[u8]| Zeroizing::new([front, value].concat());
        match &self.inject {
            Slot::Header { name, prefix } => set_header(&mut parts.headers, name, &joined(prefix.as_bytes())),
            Slot::Basic { username } => {
                let text = as_basic(&joined(format!("{username}:").as_bytes()));
                set_header(&mut parts.headers, &AUTHORIZATION, &text)
            }
            Slot::Query { name } => {
                let query = parts.uri.query().unwrap_or_default();
                let name = escape(name.as_bytes());
                let is_name =
                    |piece: &str| *unescape(piece.split('=').next().unwrap_or_default()) == *unescape(&name);
                if query.split('&').any(is_name) {
                    return Ok(false);
                }
                let joint = if query.is_empty() { "" } else { "&" };
                let made = Zeroizing::new(format!("{query}{joint}{}={}", *name, *escape(value)));
                set_query(&mut parts.uri, &made).map(|()| true)
            }
            // Where it is not signed, there is no place for it.
            Slot::SigV4 { .. } => Ok(false),
        }
    }
}

fn set_header(headers: &mut HeaderMap, name: &http::HeaderName, text: &[u8]) -> Result<bool, Misfit> {
    let is_free = !headers.contains_key(name);
    if is_free {
        headers.insert(name, sensitive(text)?);
    }
    Ok(is_free)
}

/// Not printed, and not kept in the tables of HTTP/2.
fn sensitive(text: &[u8]) -> Result<HeaderValue, Misfit> {
    let mut value = HeaderValue::from_bytes(text).map_err(|_| MALFORMED)?;
    value.set_sensitive(true);
    Ok(value)
}

fn set_query(uri: &mut Uri, query: &str) -> Result<(), Misfit> {
    let text = Zeroizing::new(format!("{}?{query}", uri.path()));
    let mut pieces = std::mem::take(uri).into_parts();
    pieces.path_and_query = Some(PathAndQuery::try_from(text.as_str()).map_err(|_| MALFORMED)?);
    *uri = Uri::from_parts(pieces).map_err(|_| MALFORMED)?;
    Ok(())
}

#[cfg(test)]
mod tests;
