//! What a workspace may reach.

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
    #[schemars(length(max = 128))]
    pub rules: Vec<EgressRule>,
}

/// What happens to a connection that no rule names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefaultAction {
    /// As the Template says, else ALLOW_PUBLIC.
    #[default]
    DefaultActionUnset,
    /// Public addresses are reachable, private ones are not.
    AllowPublic,
    /// Nothing is reachable.
    Deny,
}

/// One rule for a set of destinations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EgressRule {
    /// Networks such as 10.0.0.0/8 or 2001:db8::/32, without bits beyond the prefix.
    #[schemars(length(min = 1, max = 128))]
    pub cidrs: Vec<String>,
    pub action: RuleAction,
    /// Destination ports. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RuleAction {
    Allow,
    Deny,
}
