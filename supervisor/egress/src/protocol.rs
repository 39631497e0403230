//! Which transport a flow goes by, and which of them a rule is for.

use serde::{Deserialize, Serialize};

use crate::Action;

/// How bytes leave a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Protocol {
    Tcp,
    /// All but DNS, which the broker answers itself.
    Udp,
}

/// Protocols of one rule.
pub(crate) const MAX_PROTOCOLS: usize = 2;

impl Protocol {
    /// As conditions and denials have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }

    /// Whether a rule with these protocols is for this one. An ALLOW that names none is for TCP, so that UDP is open only where a
    /// rule says so; a DENY that names none is for all.
    fn is_meant(self, action: Action, protocols: &[Self]) -> bool {
        match (protocols, action) {
            ([], Action::Allow) => self == Self::Tcp,
            ([], Action::Deny) => true,
            (protocols, _) => protocols.contains(&self),
        }
    }
}

/// The port that a flow goes to, with its protocol.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Service {
    pub protocol: Protocol,
    pub port: u16,
}

/// What a rule says of protocols and ports.
#[derive(Clone, Debug)]
pub(crate) struct Services {
    pub tcp: bool,
    pub udp: bool,
    /// Empty means all.
    pub ports: Box<[u16]>,
}

impl Services {
    pub(crate) fn new(action: Action, protocols: &[Protocol], ports: &[u16]) -> Self {
        let meant = |protocol: Protocol| protocol.is_meant(action, protocols);
        Self { tcp: meant(Protocol::Tcp), udp: meant(Protocol::Udp), ports: ports.into() }
    }

    /// Whether no flow is left out.
    pub(crate) fn are_all(&self) -> bool {
        self.tcp && self.udp && self.ports.is_empty()
    }
}
