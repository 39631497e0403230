//! What a workspace was refused, for whoever wants to know why: kept, logged, watched, and told to the client.

mod answer;
mod owners;
mod ring;
mod socket;
mod watch;

use std::net::{IpAddr, SocketAddr};

use cordium_egress::Host;
use serde::{Deserialize, Serialize};

pub(crate) use answer::{body, refuse};
pub(crate) use owners::Owners;
pub use owners::{Owner, Question};
pub(crate) use ring::{Looked, Ring, Rings};
pub(crate) use socket::{Sources, bind, serve};
pub use watch::{Denials, Questions, Records, WatchError, questions, watch, watch_records};

/// Names that one denial carries.
const MAX_NAMES: usize = 4;
/// Letters of a method or path that one denial carries.
const MAX_TEXT: usize = 512;

/// One refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// Rises with each denial of a workspace, over restarts of the broker too.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time_millis: u64,
    pub workspace: String,
    /// What was said or asked for; where the connection said nothing, the names that led to its address.
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    pub protocol: Protocol,
    /// Of a request of HTTP; its path is without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What decided: a rule's name, `rules[N]`, `default`, or one that every node has.
    pub rule: String,
    pub reason: String,
    /// What helps.
    pub next: String,
    /// Who asked, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Protocol {
    Tcp,
    Udp,
    Dns,
}

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Why {
    pub rule: String,
    pub reason: &'static str,
    pub next: &'static str,
}

/// What is refused.
#[derive(Clone, Debug)]
pub(crate) struct What<'a> {
    pub names: &'a [Host],
    pub destination: Option<SocketAddr>,
    /// The workspace's end, by which its program is found.
    pub client: Option<SocketAddr>,
    pub protocol: Protocol,
    /// Method and path, where it is one request.
    pub request: Option<(&'a str, &'a str)>,
}

/// Cut, and without what a terminal could take for more than a letter.
fn plain(text: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_graphic() { letter } else { '?' };
    text.chars().take(MAX_TEXT).map(plain).collect()
}

impl Denial {
    /// One without a number and a time: the ring knows them.
    fn new(workspace: &str, what: &What<'_>, why: Why) -> Self {
        Self {
            number: 0,
            time_millis: 0,
            workspace: workspace.to_owned(),
            names: what.names.iter().take(MAX_NAMES).map(Host::to_string).collect(),
            address: what.destination.map(|destination| destination.ip().to_canonical()),
            port: what.destination.map(|destination| destination.port()),
            protocol: what.protocol,
            method: what.request.map(|(method, _)| plain(method)),
            path: what.request.map(|(_, path)| plain(path)),
            rule: why.rule,
            reason: why.reason.to_owned(),
            next: why.next.to_owned(),
            owner: None,
        }
    }
}
