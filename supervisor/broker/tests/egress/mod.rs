//! The policy in force: one test for each line of its semantics, with a real name server, HTTP servers and TLS behind a real
//! gateway.

mod http;
mod live;
mod names;
mod owners;
pub mod records;
pub mod servers;
mod tls;

use cordium_egress::{Action, DefaultAction, Policy, Rule};

/// A rule by its dimensions, separated by spaces.
pub fn rule(action: Action, hosts: &str, cidrs: &str, ports: &[u16]) -> Rule {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let (cidrs, hosts, ports) = (words(cidrs), words(hosts), ports.to_vec());
    let (name, protocols, methods, paths, condition) = (None, vec![], vec![], vec![], None);
    Rule { name, action, cidrs, hosts, ports, protocols, methods, paths, condition }
}

/// DENY but for these hosts.
pub fn hosts(hosts: &str) -> Policy {
    policy(DefaultAction::Deny, vec![rule(Action::Allow, hosts, "", &[])])
}

pub fn policy(default_action: DefaultAction, rules: Vec<Rule>) -> Policy {
    Policy { default_action, rules, ..Policy::default() }
}
