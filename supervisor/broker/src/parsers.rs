//! Doors to the parsers of what a workspace sends, for checks of whatever bytes (`tests/parsers`, `fuzz`).

use std::net::IpAddr;

use crate::dns;
use crate::first::{self, Heard};

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    Incomplete,
    Tls(String),
    Http(String),
    Refused,
    Other,
}

pub fn first(bytes: &[u8]) -> First {
    match first::hear(bytes) {
        Heard::Incomplete => First::Incomplete,
        Heard::Tls(name) => First::Tls(name),
        Heard::Http(head) => First::Http(head.host),
        Heard::Refused(_) => First::Refused,
        Heard::Other => First::Other,
    }
}

/// Whether the first bytes are surely HTTP.
pub fn is_http(bytes: &[u8]) -> bool {
    first::is_http(bytes)
}

/// What becomes of a packet for the resolver.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    Ignored,
    Answered(Vec<u8>),
    /// The name, and what an upstream would be asked.
    Forwarded(String, Option<Vec<u8>>),
}

/// Reads a query; `answer` is what an upstream would say to it.
pub fn dns(query: &[u8], answer: &[u8]) -> Asked {
    match dns::act(query, crate::GATEWAY_V4, |_| None) {
        dns::Action::Ignore => Asked::Ignored,
        dns::Action::Reply(reply) => Asked::Answered(reply),
        dns::Action::Forward(question) => {
            let sent = question.outgoing();
            if let Some((id, _)) = &sent
                && question.is_answered_by(*id, answer)
            {
                let given = question.incoming(answer.to_vec(), question.udp_limit);
                assert!(given.len() <= question.udp_limit.max(512), "{} bytes over UDP", given.len());
            }
            Asked::Forwarded(question.name(), sent.map(|(_, packet)| packet))
        }
    }
}

/// The addresses that an answer gives to the name that was asked for.
pub fn addresses(answer: &[u8]) -> Vec<IpAddr> {
    dns::addresses(answer).into_iter().map(|(address, _)| address).collect()
}
