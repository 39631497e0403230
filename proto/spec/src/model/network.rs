//! What a workspace may reach.

use cordium_egress as egress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// The workspace's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Network {
    #[serde(skip_serializing_if = "is_default")]
    pub egress: Egress,
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
    /// As the Template says, else as the node is configured.
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
    /// A condition in CEL on ctx.workspace, ctx.user, ctx.request and ctx.time, such as
    /// `ctx.time.weekday in [1, 2, 3, 4, 5]`: the rule matches only where it is true, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub condition: Option<String>,
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
            condition: rule.condition.clone(),
        }
    }
}
