//! What a workspace may reach.

use cordium_egress as egress;
use cordium_egress::binding;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Service, is_default};

/// The workspace's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Egress,
    /// Secrets that the broker puts on requests, so that they are never inside. Appended to the Template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub credentials: Vec<Credential>,
    /// Servers that the broker logs in to, so that their passwords are never inside. Appended to the Template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub services: Vec<Service>,
    /// Certificates (PEM) of authorities that servers of bound hosts and of services may have beside those that the node trusts.
    /// Appended to the Template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 16384)))]
    pub extra_roots: Vec<String>,
}

/// A Secret of the Space that is put on requests to `hosts`. The workspace has a placeholder in its place, which is
/// worth nothing anywhere else. The egress policy must allow the hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credential {
    /// Shown when a request is refused.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// The name of a Secret of the Space. Its value is one line of printable ASCII, at most 16,384 characters.
    #[schemars(length(min = 1, max = 253))]
    pub from_secret: String,
    /// Exact names such as api.example.com.
    #[schemars(length(min = 1, max = 32))]
    pub hosts: Vec<String>,
    /// Such as GET. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub methods: Vec<String>,
    /// Beginnings of paths, by whole segments, such as /repos/acme. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub paths: Vec<String>,
    /// Where the value goes if a request does not have the placeholder anywhere. By default `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub inject: Inject,
    /// A variable of the environment that has the placeholder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[!-<>-~]+$"))]
    pub env: Option<String>,
    /// What the workspace has in place of the value. By default it is made at the start, as long as the value and of
    /// the same kind of characters, with the beginning that programs know a token by, such as ghp_.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 16, max = 4096), regex(pattern = r"^[A-Za-z0-9._~+/=-]+$"))]
    pub placeholder: Option<String>,
}

/// The place in a request where a credential's value goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Inject {
    /// A header: its name, and what stands before the value.
    Header {
        #[schemars(length(min = 1, max = 1024))]
        name: String,
        #[serde(default)]
        #[schemars(length(max = 1024))]
        prefix: String,
    },
    /// `Authorization: Basic` with this user name; the value is the password.
    Basic {
        #[schemars(length(max = 1024))]
        username: String,
    },
    /// A parameter of the query.
    Query {
        #[schemars(length(min = 1, max = 1024))]
        name: String,
    },
    /// The request is signed with it (AWS Signature Version 4): the workspace signs with this access key's id and the
    /// placeholder as its secret key, and the signature of the real one takes its place.
    #[serde(rename_all = "camelCase")]
    SigV4 {
        #[schemars(length(min = 16, max = 128), regex(pattern = r"^[A-Za-z0-9_]+$"))]
        access_key_id: String,
    },
}

impl Default for Inject {
    fn default() -> Self {
        Self::Header { name: "Authorization".into(), prefix: "Bearer ".into() }
    }
}

impl From<&Inject> for binding::Inject {
    fn from(inject: &Inject) -> Self {
        match inject.clone() {
            Inject::Header { name, prefix } => Self::Header { name, prefix },
            Inject::Basic { username } => Self::Basic { username },
            Inject::Query { name } => Self::Query { name },
            Inject::SigV4 { access_key_id } => Self::SigV4 { access_key_id },
        }
    }
}

/// Connections that leave the workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Egress {
    /// For what no rule names.
    #[serde(skip_serializing_if = "is_default")]
    pub default_action: DefaultAction,
    /// A DENY that matches beats every ALLOW. Appended to the Template's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub rules: Vec<EgressRule>,
}

/// What happens to a connection that no rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefaultAction {
    /// As the Template says, else the Space, else as the node is configured.
    #[default]
    DefaultActionUnset,
    /// Public addresses are reachable, private ones are not.
    AllowPublic,
    /// Nothing is reachable, and no name is resolved.
    Deny,
}

/// One rule for a set of destinations: those that are in `cidrs`, have a name of `hosts` and a port of `ports`. At
/// least one of `cidrs` and `hosts` is not empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Shown when the rule denies something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: Option<String>,
    /// Networks such as 10.0.0.0/8 or 2001:db8::/32, without bits beyond the prefix. Empty means all, but for an ALLOW
    /// with `hosts` all public ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub cidrs: Vec<String>,
    /// Names such as api.example.com, or *.example.com for all below it. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub hosts: Vec<String>,
    pub action: RuleAction,
    /// Destination ports. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// TCP, UDP or both. An ALLOW without any is for TCP: UDP other than DNS is open only where a rule says so, whatever
    /// the default. A DENY without any is for both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub protocols: Vec<Protocol>,
    /// Methods of HTTP, such as GET: the rule is for such requests to its `hosts`, and for nothing else. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub methods: Vec<String>,
    /// Beginnings of paths of HTTP, by whole segments, such as /repos/acme: the rule is for such requests to its
    /// `hosts`, and for nothing else. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub paths: Vec<String>,
    /// A condition in CEL on ctx.workspace, ctx.user, ctx.request and ctx.time, such as
    /// `ctx.time.weekday in [1, 2, 3, 4, 5]`: the rule matches only where it is true, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub condition: Option<String>,
}

/// What a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RuleAction {
    Allow,
    Deny,
}

impl Egress {
    /// The policy that a node enforces, with its own default and its own protected networks.
    pub fn policy(&self, unset: egress::DefaultAction, protected: Vec<String>) -> egress::Policy {
        egress::Policy {
            default_action: match self.default_action {
                DefaultAction::DefaultActionUnset => unset,
                DefaultAction::AllowPublic => egress::DefaultAction::AllowPublic,
                DefaultAction::Deny => egress::DefaultAction::Deny,
            },
            rules: self.rules.iter().map(egress::Rule::from).collect(),
            protected,
            context: None,
        }
    }
}

impl From<&EgressRule> for egress::Rule {
    fn from(rule: &EgressRule) -> Self {
        Self {
            name: rule.name.clone(),
            action: match rule.action {
                RuleAction::Allow => egress::Action::Allow,
                RuleAction::Deny => egress::Action::Deny,
            },
            cidrs: rule.cidrs.clone(),
            hosts: rule.hosts.clone(),
            ports: rule.ports.clone(),
            protocols: rule.protocols.iter().map(|protocol| (*protocol).into()).collect(),
            methods: rule.methods.clone(),
            paths: rule.paths.clone(),
            condition: rule.condition.clone(),
        }
    }
}

impl From<Protocol> for egress::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }
}
