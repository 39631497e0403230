//! URLs that something is fetched from: https, and http for tests and networks of one's own.

use std::net::Ipv6Addr;

use super::{At, text};
use crate::error::SpecError;

const ALLOWED: &str = "an https:// (or http://) URL";

pub(super) fn fetchable(at: At<'_>, url: &str) -> Result<(), SpecError> {
    text::line(at, url, 256)?;
    if at.is_open(url) {
        return Ok(());
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        let hint = match url.split_once(':') {
            Some((host, _)) if host.contains('@') || is_scp(host) => "; ssh is not supported",
            _ => "",
        };
        return Err(at.was(url, format!("{ALLOWED}{hint}")));
    };
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        let shown: String = scheme.chars().take(20).collect();
        return Err(at.was(url, format!("{ALLOWED}; the scheme {shown:?} is not supported")));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        // Not repeated in the message: it may hold a password.
        return Err(
            at.error("was a URL with a user name in it; allowed: the credentials under `authentication`")
        );
    }
    if !is_host_port(authority) {
        return Err(at.was(url, format!("{ALLOWED} with a host name or address, and a port from 1 to 65535")));
    }
    if url.chars().any(|c| c.is_whitespace() || matches!(c, '\\' | '"' | '<' | '>' | '`')) {
        return Err(at.was(url, format!("{ALLOWED} without blanks and quotes")));
    }
    Ok(())
}

fn is_scp(host: &str) -> bool {
    host.contains('.') && !host.contains('/')
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`
pub(crate) fn is_host_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            match after.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if after.is_empty() => (None, None),
                None => return false,
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        },
    };
    host.is_none_or(is_host) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    port.len() <= 5
        && port.chars().all(|c| c.is_ascii_digit())
        && port.parse::<u32>().is_ok_and(|port| (1..=65535).contains(&port))
}

fn is_host(host: &str) -> bool {
    (1..=253).contains(&host.len())
        && host.trim_end_matches('.').split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
