//! The lowest rule for each port.

use std::collections::BTreeMap;

use crate::Action;

/// Of many rules that differ in ports only, the first that matches a port.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    any: Option<u32>,
    by_port: BTreeMap<u16, u32>,
}

impl Ports {
    /// Rules are added in their order.
    pub(crate) fn add(&mut self, ports: &[u16], rule: u32) {
        if ports.is_empty() {
            self.any.get_or_insert(rule);
        }
        for port in ports {
            self.by_port.entry(*port).or_insert(rule);
        }
    }

    pub(crate) fn first(&self, port: u16) -> Option<u32> {
        lower(self.any, self.by_port.get(&port).copied())
    }
}

pub(crate) fn lower(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}

/// The same for each action.
#[derive(Debug, Default)]
pub(crate) struct ByAction {
    pub allow: Ports,
    pub deny: Ports,
}

impl ByAction {
    pub(crate) fn add(&mut self, action: Action, ports: &[u16], rule: u32) {
        match action {
            Action::Allow => self.allow.add(ports, rule),
            Action::Deny => self.deny.add(ports, rule),
        }
    }
}
