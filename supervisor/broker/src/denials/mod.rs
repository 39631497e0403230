//! What a workspace was refused, for whoever wants to know why: kept, logged, watched, and told to the client.

mod answer;
mod ring;
mod socket;
mod watch;

use std::net::{IpAddr, SocketAddr};

use cordium_egress::Host;
use serde::{Deserialize, Serialize};

pub(crate) use answer::{body, refuse};
pub(crate) use ring::{Ring, Rings};
pub(crate) use socket::{bind, serve};
pub use watch::{Denials, WatchError, watch};

/// Names that one denial carries.
const MAX_NAMES: usize = 4;

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
    /// What decided: a rule's name, `rules[N]`, `default`, or one that every node has.
    pub rule: String,
    pub reason: String,
    /// What helps.
    pub next: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub protocol: Protocol,
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
            rule: why.rule,
            reason: why.reason.to_owned(),
            next: why.next.to_owned(),
        }
    }
}
