//! What a client says first: the name in a TLS ClientHello or in the head of an HTTP/1 request.
//!
//! A flow that is open to some names only is let through by the name that the client asks the server for. The bytes are a
//! tenant's: nothing here allocates by a length that they claim, and what is not surely something else is refused.

mod http;
mod tls;

pub(crate) use http::Head;

/// The most that is looked at; a first message that is longer is refused.
pub(crate) const MOST: usize = 16 * 1024;

/// What the first bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The beginning of something that is not told yet.
    Incomplete,
    /// A ClientHello that asks for this name, as the client spells it.
    Tls(String),
    /// The head of an HTTP/1 request.
    Http(Head),
    /// A protocol that is known to name a server, but does not here or does so in two ways.
    Refused(&'static str),
    /// Another protocol: it says no name that could be checked.
    Other,
}

impl Heard {
    /// The name that the client asks for.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Tls(name) => Some(name),
            Self::Http(head) => Some(&head.host),
            _ => None,
        }
    }
}

/// Reads the beginning of a connection.
pub(crate) fn hear(bytes: &[u8]) -> Heard {
    let heard = match bytes.first() {
        None => Heard::Incomplete,
        // The record types of TLS: no other may come before the ClientHello, and no other protocol begins so.
        Some(0x14..=0x17) => tls::hear(bytes),
        Some(0x80..) => tls::hear_old(bytes),
        Some(_) => http::hear(bytes),
    };
    match heard {
        Heard::Incomplete if bytes.len() >= MOST => Heard::Refused("the first message is longer than 16 KiB"),
        heard => heard,
    }
}

/// Whether these bytes are surely an HTTP/1 request, well-formed or not: its sender understands an HTTP answer.
pub(crate) fn is_http(bytes: &[u8]) -> bool {
    http::is_request(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
