//! What was decided, by which rule, why, and what helps.

use std::fmt;

/// Which line of the policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleRef<'a> {
    Rule {
        index: usize,
        /// As the policy names it.
        name: Option<&'a str>,
    },
    /// The policy's `defaultAction`.
    Default,
    /// One of the node's `protectedNetworks`.
    ProtectedNetwork { index: usize },
    /// A rule that every node has.
    Fixed(&'static str),
}

impl fmt::Display for RuleRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { name: Some(name), .. } => f.write_str(name),
            Self::Rule { index, name: None } => write!(f, "rules[{index}]"),
            Self::Default => f.write_str("default"),
            Self::ProtectedNetwork { index } => write!(f, "protectedNetworks[{index}]"),
            Self::Fixed(name) => f.write_str(name),
        }
    }
}

/// A decision that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling<'a> {
    Allow { rule: RuleRef<'a> },
    Deny { rule: RuleRef<'a>, reason: Reason },
}

impl<'a> Ruling<'a> {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    pub fn rule(&self) -> RuleRef<'a> {
        match self {
            Self::Allow { rule } | Self::Deny { rule, .. } => *rule,
        }
    }
}

/// Why something was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The destination is one that no policy opens; the text says which.
    Protected(&'static str),
    ProtectedNetwork,
    /// A DENY rule matches.
    Rule,
    /// No ALLOW rule matches, and the default is DENY.
    Default,
    /// No ALLOW rule matches, and the address is not public.
    NotPublic,
    /// No ALLOW rule for UDP matches: no default opens it.
    Udp,
    /// An ALLOW rule names the host, but the name leads to an address that is not public.
    PrivateName,
    /// The policy goes by names, and no name led to this address.
    NoName,
    /// The policy goes by names, and the client said none: TLS without SNI, HTTP without one Host.
    Unnamed,
    /// The client said a name that did not lead to this address.
    NameNotPinned,
    /// Some requests to this host are allowed, this one is not.
    Request,
    /// Some requests to this host are allowed, but this path can be read in two ways; the text says how.
    Path(&'static str),
    /// Requests to this host are decided one by one, and what the client speaks has none.
    NotHttp,
    /// The policy now goes by names, and the flow was opened without having to say one.
    Unasked,
}

impl Reason {
    /// What happened.
    pub fn text(self) -> &'static str {
        match self {
            Self::Protected(text) => text,
            Self::ProtectedNetwork => "the node protects this network",
            Self::Rule => "a DENY rule of the workspace's policy matches",
            Self::Default => "no rule of the workspace's policy allows it, and its default is DENY",
            Self::NotPublic => "the address is not public, and no rule of the workspace's policy allows it",
            Self::Udp => "UDP other than DNS is open only where a rule of the workspace's policy names it",
            Self::PrivateName => "the host is allowed, but its address is not public",
            Self::NoName => {
                "the policy allows hosts, and no name that it allows was resolved to this address"
            }
            Self::Unnamed => "the policy goes by host names, and the connection says none",
            Self::NameNotPinned => "the name that the connection says was not resolved to this address",
            Self::Request => "no rule of the workspace's policy allows this method and path",
            Self::Path(text) => text,
            Self::NotHttp => "the policy goes by method and path here, and the connection is not HTTP",
            Self::Unasked => "the policy has changed and now goes by what the connection says",
        }
    }

    /// What helps.
    pub fn next(self) -> &'static str {
        match self {
            Self::Protected(_) => {
                "no policy opens this destination; a port of the node itself is opened with hostPorts"
            }
            Self::ProtectedNetwork => "ask who runs the node to change protectedNetworks",
            Self::Rule => "change or remove that rule: a DENY beats every ALLOW",
            Self::Default | Self::NotPublic => {
                "add an ALLOW rule for it: cordium policy get WORKSPACE, then cordium policy set WORKSPACE -f FILE"
            }
            Self::Udp => {
                "add an ALLOW rule with protocols: [UDP] for it: cordium policy get WORKSPACE, then cordium policy set WORKSPACE -f FILE"
            }
            Self::PrivateName => "add the cidrs to the rule that names the host",
            Self::NoName => {
                "connect by an allowed name, resolved inside the workspace, or add an ALLOW rule with the address in cidrs"
            }
            Self::Unnamed => {
                "let the client send SNI or one Host header, or add an ALLOW rule with the address in cidrs"
            }
            Self::NameNotPinned => "resolve the name inside the workspace and connect to that address",
            Self::Request => {
                "add the method and path to an ALLOW rule: cordium policy get WORKSPACE, then cordium policy set WORKSPACE -f FILE"
            }
            Self::Path(_) => "send the path in its plain form",
            Self::NotHttp => "speak HTTP, or let the rules with methods and paths have other ports",
            Self::Unasked => "connect again",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
