//! The policy as people and processes write it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::condition::{Condition, Subject};
use crate::protocol::{MAX_PROTOCOLS, Services};
use crate::request::{Scope, Wrong, check_methods, check_paths};
use crate::{Cidr, Pattern, Protocol};

/// Rules of one policy.
pub const MAX_RULES: usize = 10_000;
/// Networks, hosts or ports of one rule.
pub const MAX_ENTRIES: usize = 128;
/// Protected networks of one node.
pub const MAX_PROTECTED: usize = 1_024;
/// A policy written as JSON without spaces: it is passed on in one piece.
pub const MAX_BYTES: usize = 1 << 20;
/// Of that, what the rules may take; the rest is for the node's networks.
pub(crate) const MAX_RULE_BYTES: usize = MAX_BYTES - (64 << 10);
const MAX_NAME: usize = 63;
/// Characters of a value that an error repeats.
const SHOWN: usize = 64;

/// What a workspace may reach. The default reaches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// For what no rule names.
    pub default_action: DefaultAction,
    /// A DENY that matches beats every ALLOW.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// The node's: networks that no rule opens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<String>,
    /// The node's: whose flows these are, for conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Subject>,
}

/// What happens to a flow that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DefaultAction {
    #[default]
    Deny,
    /// Publicly routable addresses are reachable, private ones are not.
    AllowPublic,
}

/// One rule. Its dimensions are ANDed, the entries of one dimension ORed; an empty dimension means any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Shown in denials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub action: Action,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// An ALLOW without any is for TCP, a DENY without any is for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Protocol>,
    /// Of HTTP, such as GET: the rule is for such requests, not for connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Of HTTP, beginnings by whole segments: the rule is for such requests, not for connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// CEL: the rule matches only where it is true, too. One without an answer is false for an ALLOW and true for a DENY.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    Allow,
    Deny,
}

/// Where a policy is wrong, and what may stand there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{path}: was {was}; allowed: {allowed}")]
pub struct PolicyError {
    /// Such as `rules[3].cidrs[0]`.
    pub path: String,
    pub was: String,
    pub allowed: String,
}

impl PolicyError {
    pub(crate) fn new(path: impl Into<String>, was: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { path: path.into(), was: was.into(), allowed: allowed.into() }
    }
}

/// A rule whose texts have been read.
#[derive(Debug)]
pub(crate) struct ParsedRule {
    pub action: Action,
    pub cidrs: Vec<Cidr>,
    pub hosts: Vec<Pattern>,
    pub services: Services,
    pub condition: Option<Condition>,
    /// The rule goes by request.
    pub scope: Option<Scope>,
}

impl Policy {
    /// Whether some rule goes by method or path, so that requests must be looked at.
    pub fn goes_by_request(&self) -> bool {
        let asks = |text: &String| Condition::parse(text).is_ok_and(|condition| condition.by_request());
        self.rules.iter().any(|rule| {
            !rule.methods.is_empty() || !rule.paths.is_empty() || rule.condition.as_ref().is_some_and(asks)
        })
    }

    /// Whether what the rules say depends on whose flow it is, or on when.
    pub fn has_conditions(&self) -> bool {
        self.rules.iter().any(|rule| rule.condition.is_some())
    }

    /// No less than the JSON takes without the node's networks, if the texts are what they should be.
    pub(crate) fn weight(&self) -> usize {
        let texts = |list: &[String]| list.iter().map(|text| text.len() + 3).sum::<usize>();
        let rule = |rule: &Rule| {
            let name = rule.name.as_ref().map_or(0, String::len);
            // Quotes and ends of lines take two; nothing else in it has to be escaped.
            let condition = rule.condition.as_ref().map_or(0, |text| 16 + 2 * text.len());
            let protocols = 16 + 6 * rule.protocols.len();
            let by_request = !rule.methods.is_empty() || !rule.paths.is_empty();
            let scope = if by_request { 32 } else { 0 };
            let lists = [&rule.cidrs, &rule.hosts, &rule.methods, &rule.paths];
            64 + name
                + scope
                + lists.into_iter().map(|list| texts(list)).sum::<usize>()
                + 6 * rule.ports.len()
                + protocols
                + condition
        };
        96 + self.rules.iter().map(rule).sum::<usize>()
    }
}

impl Rule {
    /// Checks the rule as the one at `path`.
    pub fn check(&self, path: &str) -> Result<(), PolicyError> {
        self.parse(path).map(drop)
    }

    pub(crate) fn parse(&self, path: &str) -> Result<ParsedRule, PolicyError> {
        if let Some(name) = &self.name {
            check_name(path, name)?;
        }
        for (field, count) in [
            ("cidrs", self.cidrs.len()),
            ("hosts", self.hosts.len()),
            ("ports", self.ports.len()),
            ("methods", self.methods.len()),
            ("paths", self.paths.len()),
        ] {
            check_count(&format!("{path}.{field}"), count, MAX_ENTRIES)?;
        }
        check_count(&format!("{path}.protocols"), self.protocols.len(), MAX_PROTOCOLS)?;
        if self.cidrs.is_empty() && self.hosts.is_empty() {
            let allowed = format!("at least one of {} (or name hosts instead)", crate::cidr::ALLOWED);
            return Err(PolicyError::new(format!("{path}.cidrs"), "an empty list", allowed));
        }
        if let Some(index) = self.ports.iter().position(|port| *port == 0) {
            let allowed = "a whole number from 1 to 65535";
            return Err(PolicyError::new(format!("{path}.ports[{index}]"), "0", allowed));
        }
        let cidrs = cidrs(&format!("{path}.cidrs"), &self.cidrs)?;
        let host = |(index, text): (usize, &String)| {
            Pattern::parse(text).map_err(|error| {
                PolicyError::new(format!("{path}.hosts[{index}]"), quote(text), error.allowed())
            })
        };
        let hosts = self.hosts.iter().enumerate().map(host).collect::<Result<_, _>>()?;
        let condition = self
            .condition
            .as_deref()
            .map(Condition::parse)
            .transpose()
            .map_err(|error| PolicyError::new(format!("{path}.condition"), error.was, error.allowed))?;
        let scope = self.scope(path, condition.as_ref())?;
        let services = Services::new(self.action, &self.protocols, &self.ports);
        Ok(ParsedRule { action: self.action, cidrs, hosts, services, condition, scope })
    }

    /// Whether the rule goes by request. Names are what requests are told apart by: an address has many.
    fn scope(&self, path: &str, condition: Option<&Condition>) -> Result<Option<Scope>, PolicyError> {
        let entry = |list: &str, texts: &[String], Wrong { index, problem, allowed }: Wrong| {
            let was = format!("{} ({problem})", quote(&texts[index]));
            PolicyError::new(format!("{path}.{list}[{index}]"), was, allowed)
        };
        check_methods(&self.methods).map_err(|wrong| entry("methods", &self.methods, wrong))?;
        check_paths(&self.paths).map_err(|wrong| entry("paths", &self.paths, wrong))?;
        let asks = condition.is_some_and(Condition::by_request);
        if self.methods.is_empty() && self.paths.is_empty() && !asks {
            return Ok(None);
        }
        if self.hosts.is_empty() {
            let allowed = "at least one host such as api.example.com in a rule that goes by method or path";
            return Err(PolicyError::new(format!("{path}.hosts"), "an empty list", allowed));
        }
        Ok(Some(Scope::new(&self.methods, &self.paths)))
    }
}

pub(crate) fn cidrs(path: &str, texts: &[String]) -> Result<Vec<Cidr>, PolicyError> {
    let cidr = |(index, text): (usize, &String)| {
        Cidr::parse(text)
            .map_err(|allowed| PolicyError::new(format!("{path}[{index}]"), quote(text), allowed))
    };
    texts.iter().enumerate().map(cidr).collect()
}

pub(crate) fn check_count(path: &str, count: usize, most: usize) -> Result<(), PolicyError> {
    if count <= most {
        return Ok(());
    }
    Err(PolicyError::new(path, format!("a list of {count}"), format!("at most {most}")))
}

/// A name goes into log lines and answers: it is one plain word, and cannot look like `rules[0]`.
fn check_name(path: &str, name: &str) -> Result<(), PolicyError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    let allowed = format!("1 to {MAX_NAME} letters, digits, '-', '_' and '.'");
    Err(PolicyError::new(format!("{path}.name"), quote(name), allowed))
}

/// Escaped and cut: it may come from anybody.
fn quote(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_no_less_than_the_json() {
        let rule = Rule {
            name: Some("n".repeat(63)),
            action: Action::Allow,
            cidrs: vec!["2001:db8::/32".into(); 3],
            hosts: vec!["*.example.com".into(); 2],
            ports: vec![65535; 128],
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            methods: vec!["GET".into(); 2],
            paths: vec!["/v1".into(); 128],
            condition: Some("ctx.user.name\n== \"\\\"\"".into()),
        };
        let bare = Rule {
            name: None,
            cidrs: vec![],
            ports: vec![],
            protocols: vec![],
            methods: vec![],
            paths: vec![],
            action: Action::Deny,
            condition: None,
            ..rule.clone()
        };
        for rules in [vec![], vec![rule.clone()], vec![bare; 500], vec![rule; 50]] {
            let default_action = DefaultAction::AllowPublic;
            let mut policy = Policy { default_action, rules, ..Policy::default() };
            let alone = serde_json::to_string(&policy).unwrap().len();
            assert!(alone <= policy.weight());
            policy.protected =
                vec!["ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255/128".into(); MAX_PROTECTED];
            let text = "\"".repeat(256);
            policy.context = Some(Subject {
                workspace: text.clone(),
                uid: text.clone(),
                space: text.clone(),
                template: Some(text.clone()),
                user: Some(text),
            });
            let whole = serde_json::to_string(&policy).unwrap().len();
            assert!(whole - alone <= MAX_BYTES - MAX_RULE_BYTES);
        }
    }
}
