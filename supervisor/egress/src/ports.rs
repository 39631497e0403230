//! The rules for each protocol and port, in an order that finds the lowest that matches.

use std::collections::BTreeMap;

use crate::protocol::{Service, Services};
use crate::{Action, Protocol};

/// Of many rules that differ in protocols and ports only, those that may match one.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    tcp: OfProtocol,
    udp: OfProtocol,
}

#[derive(Debug, Default)]
struct OfProtocol {
    any: Option<u32>,
    by_port: BTreeMap<u16, u32>,
    /// Rules with a condition hide nobody behind them.
    conditional: Vec<(Box<[u16]>, u32)>,
}

impl Ports {
    /// Rules are added in their order.
    pub(crate) fn add(&mut self, services: &Services, rule: u32, conditional: bool) {
        for (meant, of) in [(services.tcp, &mut self.tcp), (services.udp, &mut self.udp)] {
            if meant {
                of.add(&services.ports, rule, conditional);
            }
        }
    }

    fn of(&self, protocol: Protocol) -> &OfProtocol {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }
}

impl OfProtocol {
    fn add(&mut self, ports: &[u16], rule: u32, conditional: bool) {
        if conditional {
            self.conditional.push((ports.into(), rule));
            return;
        }
        if ports.is_empty() {
            self.any.get_or_insert(rule);
        }
        for port in ports {
            self.by_port.entry(*port).or_insert(rule);
        }
    }

    /// The first without a condition.
    fn first(&self, port: u16) -> Option<u32> {
        lower(self.any, self.by_port.get(&port).copied())
    }
}

pub(crate) fn lower(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}

/// The rules that may match, from all over the policy.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    certain: Option<u32>,
    conditional: Vec<u32>,
}

impl Candidates {
    /// Rules are added in their order.
    pub(crate) fn add(&mut self, rule: u32, conditional: bool) {
        if conditional {
            self.conditional.push(rule);
        } else {
            self.certain.get_or_insert(rule);
        }
    }

    pub(crate) fn take(&mut self, ports: &Ports, Service { protocol, port }: Service) {
        let ports = ports.of(protocol);
        self.certain = lower(self.certain, ports.first(port));
        let matching =
            ports.conditional.iter().filter(|(ports, _)| ports.is_empty() || ports.contains(&port));
        self.conditional.extend(matching.map(|(_, rule)| *rule));
    }

    pub(crate) fn take_all(&mut self, other: &Self) {
        self.certain = lower(self.certain, other.certain);
        self.conditional.extend_from_slice(&other.conditional);
    }

    /// The lowest of those with a condition that matches.
    pub(crate) fn first_conditional(mut self, mut holds: impl FnMut(u32) -> bool) -> Option<u32> {
        self.conditional.sort_unstable();
        self.conditional.into_iter().find(|rule| holds(*rule))
    }

    /// The lowest that matches. No condition behind it is asked.
    pub(crate) fn first(mut self, mut holds: impl FnMut(u32) -> bool) -> Option<u32> {
        self.conditional.sort_unstable();
        self.conditional.dedup();
        let before = |rule: &u32| self.certain.is_none_or(|certain| *rule < certain);
        let found = self.conditional.iter().copied().take_while(before).find(|rule| holds(*rule));
        found.or(self.certain)
    }
}

/// The same for each action.
#[derive(Debug, Default)]
pub(crate) struct ByAction {
    pub allow: Ports,
    pub deny: Ports,
}

impl ByAction {
    pub(crate) fn add(&mut self, action: Action, services: &Services, rule: u32, conditional: bool) {
        match action {
            Action::Allow => self.allow.add(services, rule, conditional),
            Action::Deny => self.deny.add(services, rule, conditional),
        }
    }
}
