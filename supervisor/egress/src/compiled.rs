//! Decisions: what becomes of a flow, and whether a name is resolved.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::asked::{About, Asked, Conditions};
use crate::condition::{Moment, Place as Destination, Subject};
use crate::names::Names;
use crate::ports::{ByAction, Candidates, Ports};
use crate::prefixes::Prefixes;
use crate::protocol::Service;
use crate::request::Scope;
use crate::{
    Action, DefaultAction, Host, Protocol, Reason, Request, RuleRef, Ruling, is_public, protected, spellings,
};

/// A policy that is ready for decisions. Immutable: a new policy is a new one.
#[derive(Debug)]
pub struct Compiled {
    pub(crate) default_action: DefaultAction,
    pub(crate) names_of_rules: Vec<Option<Box<str>>>,
    pub(crate) protected: Prefixes,
    /// From a network's number to its place in the list.
    pub(crate) protected_index: Vec<usize>,
    pub(crate) prefixes: Prefixes,
    pub(crate) prefix_rules: Vec<PrefixRules>,
    pub(crate) names: Names,
    pub(crate) pattern_rules: Vec<PatternRules>,
    /// Rules with both, by network and pattern.
    pub(crate) pairs: HashMap<(u32, u32), ByAction>,
    /// DENY rules with hosts and without networks, whatever their hosts.
    pub(crate) names_denied: Ports,
    /// ALLOW rules with hosts and without networks, whatever their hosts.
    pub(crate) names_allowed: Ports,
    /// ALLOW rules for all addresses, and those whose condition goes by host.
    pub(crate) resolves_all: Candidates,
    pub(crate) conditions: Conditions,
    /// Whose flows these are.
    pub(crate) subject: Subject,
}

/// What rules say of one network.
#[derive(Debug, Default)]
pub(crate) struct PrefixRules {
    /// Rules without hosts.
    pub plain: ByAction,
    /// DENY rules with hosts, whatever their hosts.
    pub names_denied: Ports,
}

/// What rules say of one host pattern.
#[derive(Debug, Default)]
pub(crate) struct PatternRules {
    /// Rules without networks.
    pub anywhere: ByAction,
    pub resolves: Candidates,
    pub refuses: Candidates,
}

/// A connection that a workspace asks for, or a datagram and what follows it.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// The names that the workspace resolved to this address.
    pub names: &'a [Host],
    /// When the flow began: it stays what it was as long as the flow is open.
    pub began: Moment,
}

/// What the client's first bytes said about the host it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The SNI or the Host.
    Name(&'a Host),
    /// It speaks TLS or HTTP and says no name, or none that can be believed.
    Unnamed,
    /// A protocol that names no host; UDP always.
    Other,
    /// It was never asked: only for flows that are open when the policy changes.
    Unasked,
}

/// The first answer for a flow.
#[derive(Debug)]
#[must_use]
pub enum Verdict<'p, 'f> {
    /// Whatever the client says.
    Decided(Ruling<'p>),
    /// Let the client speak, then ask.
    ByName(ByName<'p, 'f>),
}

/// The answer once the client has spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Settled<'p> {
    Decided(Ruling<'p>),
    /// Requests of HTTP fare differently: ask [`Compiled::decide_request`] for each.
    ByRequest,
}

impl Settled<'_> {
    /// Whether the connection may be used, be it for some requests only.
    pub fn may_go_on(&self) -> bool {
        match self {
            Self::Decided(ruling) => ruling.is_allowed(),
            Self::ByRequest => true,
        }
    }
}

/// A flow whose decision depends on the name that the client says.
#[derive(Debug)]
#[must_use]
pub struct ByName<'p, 'f> {
    compiled: &'p Compiled,
    flow: Flow<'f>,
    place: Place<'p>,
}

/// What the rules have for an address, found once for all names.
#[derive(Debug)]
struct Place<'p> {
    /// Networks that hold the address itself.
    own: Vec<u32>,
    /// Networks that hold the IPv4 address hidden in it: DENY rules count, ALLOW rules do not.
    hidden: Vec<u32>,
    public: bool,
    service: Service,
    /// What the conditions have answered.
    asked: Asked<'p>,
}

const HOST_NAME: RuleRef<'static> = RuleRef::Fixed("host-name");
const HOST_PORTS: RuleRef<'static> = RuleRef::Fixed("host-ports");

impl<'p> ByName<'p, '_> {
    /// The decision, now that the client has spoken.
    pub fn settle(&self, said: Said<'_>) -> Settled<'p> {
        let deny = |reason| Settled::Decided(Ruling::Deny { rule: HOST_NAME, reason });
        match said {
            Said::Name(name) if self.flow.names.contains(name) => self.compiled.settled(&self.place, name),
            Said::Name(_) => deny(Reason::NameNotPinned),
            Said::Unnamed => deny(Reason::Unnamed),
            Said::Unasked => deny(Reason::Unasked),
            Said::Other => Settled::Decided(self.compiled.not_http(&self.place, self.flow.names)),
        }
    }
}

impl Compiled {
    pub(crate) fn empty(default_action: DefaultAction) -> Self {
        Self {
            default_action,
            names_of_rules: Vec::new(),
            protected: Prefixes::default(),
            protected_index: Vec::new(),
            prefixes: Prefixes::default(),
            prefix_rules: Vec::new(),
            names: Names::default(),
            pattern_rules: Vec::new(),
            pairs: HashMap::new(),
            names_denied: Ports::default(),
            names_allowed: Ports::default(),
            resolves_all: Candidates::default(),
            conditions: Conditions::default(),
            subject: Subject::default(),
        }
    }

    /// What becomes of a flow. The node's own addresses and its gateway are the caller's to check first.
    pub fn decide<'p, 'f>(&'p self, flow: &Flow<'f>) -> Verdict<'p, 'f> {
        if let Some(denied) = self.protects(flow.address) {
            return Verdict::Decided(denied);
        }
        let place = self.place(flow);
        let unnamed = self.ruling(&place, None, About::Best);
        let any_name = match unnamed {
            Ruling::Deny { reason: Reason::Rule, .. } => false,
            Ruling::Allow { .. } => self.may_deny_by_name(&place),
            Ruling::Deny { .. } => {
                let allowed = |name| self.ruling(&place, Some(name), About::Best).is_allowed();
                flow.names.iter().any(allowed)
            }
        };
        if any_name {
            return Verdict::ByName(ByName { compiled: self, flow: *flow, place });
        }
        Verdict::Decided(match unnamed {
            Ruling::Deny { reason, .. } if reason != Reason::Rule => {
                self.best_denial(&place, flow.names, unnamed)
            }
            decided => decided,
        })
    }

    /// [`decide`](Self::decide) and [`ByName::settle`] in one, for a flow whose first bytes are known: open flows are
    /// asked for again when the policy changes.
    pub fn decide_again(&self, flow: &Flow<'_>, said: Said<'_>) -> Settled<'_> {
        match self.decide(flow) {
            Verdict::Decided(ruling) => Settled::Decided(ruling),
            Verdict::ByName(by_name) => by_name.settle(said),
        }
    }

    /// What becomes of one request to `name` in a flow.
    pub fn decide_request(&self, flow: &Flow<'_>, name: &Host, request: &Request<'_>) -> Ruling<'_> {
        if let Some(denied) = self.protects(flow.address) {
            return denied;
        }
        if !flow.names.contains(name) {
            return Ruling::Deny { rule: HOST_NAME, reason: Reason::NameNotPinned };
        }
        let place = self.place(flow);
        let ruling = self.ruling(&place, Some(name), About::Request(request));
        let Ruling::Deny { rule, reason } = ruling else { return ruling };
        let scope = match rule {
            RuleRef::Rule { index, .. } => {
                u32::try_from(index).ok().and_then(|index| self.conditions.scope(index))
            }
            _ => None,
        };
        let by_path = scope.is_some_and(Scope::has_paths) || reason != Reason::Rule;
        let some_are = || self.ruling(&place, Some(name), About::Best).is_allowed();
        match (reason, request.path()) {
            (_, Err(problem)) if by_path && some_are() => {
                Ruling::Deny { rule, reason: Reason::Path(problem) }
            }
            (Reason::Rule, _) => ruling,
            _ if some_are() => Ruling::Deny { rule, reason: Reason::Request },
            _ => ruling,
        }
    }

    /// The same for a service of the node, which is no part of the policy otherwise: only a DENY that goes by request
    /// counts. Without a request: whether there could be such a DENY.
    pub fn decide_mapped(&self, flow: &Flow<'_>, name: &Host, request: Option<&Request<'_>>) -> Settled<'_> {
        let place = self.place(flow);
        let mut deny = Candidates::default();
        for pattern in self.names.matching(name) {
            deny.take(&self.pattern_rules[pattern as usize].anywhere.deny, place.service);
            for rules in place.own.iter().filter_map(|id| self.pairs.get(&(*id, pattern))) {
                deny.take(&rules.deny, place.service);
            }
        }
        let about = request.map_or(About::Worst, About::Request);
        let by_request = |rule| self.conditions.scope(rule).is_some();
        match deny.first_conditional(|rule| {
            by_request(rule) && place.asked.holds(rule, Action::Deny, Some(name), about)
        }) {
            Some(_) if request.is_none() => Settled::ByRequest,
            Some(index) => Settled::Decided(Ruling::Deny { rule: self.rule(index), reason: Reason::Rule }),
            None => Settled::Decided(Ruling::Allow { rule: HOST_PORTS }),
        }
    }

    /// Whether a name may be resolved now. What a condition asks of a flow is not known yet: an ALLOW counts if it could
    /// match then, a DENY if it must.
    pub fn resolves(&self, name: &Host, at: Moment) -> Ruling<'_> {
        let asked = Asked::new(&self.conditions, &self.subject, at, None);
        let (mut refuses, mut resolves) = (Candidates::default(), Candidates::default());
        resolves.take_all(&self.resolves_all);
        for id in self.names.matching(name) {
            let rules = &self.pattern_rules[id as usize];
            refuses.take_all(&rules.refuses);
            resolves.take_all(&rules.resolves);
        }
        if let Some(index) = refuses.first(|rule| asked.holds(rule, Action::Deny, Some(name), About::Best)) {
            return Ruling::Deny { rule: self.rule(index), reason: Reason::Rule };
        }
        let resolves = resolves.first(|rule| asked.holds(rule, Action::Allow, Some(name), About::Best));
        match (resolves, self.default_action) {
            (Some(index), _) => Ruling::Allow { rule: self.rule(index) },
            (None, DefaultAction::AllowPublic) => Ruling::Allow { rule: RuleRef::Default },
            (None, DefaultAction::Deny) => Ruling::Deny { rule: RuleRef::Default, reason: Reason::Default },
        }
    }

    fn protects(&self, address: IpAddr) -> Option<Ruling<'_>> {
        if let Some(entry) = protected(address.to_canonical()) {
            let (rule, reason) = (RuleRef::Fixed(entry.rule), Reason::Protected(entry.reason));
            return Some(Ruling::Deny { rule, reason });
        }
        let hits = spellings(address.to_canonical()).into_iter().flatten();
        let hits = hits.flat_map(|spelling| self.protected.matching(spelling));
        let index = hits.filter_map(|id| self.protected_index.get(id as usize).copied()).min()?;
        Some(Ruling::Deny { rule: RuleRef::ProtectedNetwork { index }, reason: Reason::ProtectedNetwork })
    }

    fn place(&self, flow: &Flow<'_>) -> Place<'_> {
        let (address, port, protocol) = (flow.address.to_canonical(), flow.port, flow.protocol);
        let [own, hidden] = spellings(address).map(|spelling| {
            spelling.into_iter().flat_map(|spelling| self.prefixes.matching(spelling)).collect()
        });
        let destination = Destination { address, port, protocol: protocol.name() };
        let asked = Asked::new(&self.conditions, &self.subject, flow.began, Some(destination));
        Place { own, hidden, public: is_public(address), service: Service { protocol, port }, asked }
    }

    /// The decision for a flow whose client has said `name`, one of those that led there.
    fn settled(&self, place: &Place<'_>, name: &Host) -> Settled<'_> {
        let best = self.ruling(place, Some(name), About::Best);
        let differ = self.conditions.has_scopes()
            && best.is_allowed()
            && !self.ruling(place, Some(name), About::Worst).is_allowed();
        if differ { Settled::ByRequest } else { Settled::Decided(best) }
    }

    /// The decision for a flow whose host is `name`, or for one that names none.
    fn ruling(&self, place: &Place<'_>, name: Option<&Host>, about: About<'_>) -> Ruling<'_> {
        let service = place.service;
        let (mut allow, mut deny, mut private) =
            (Candidates::default(), Candidates::default(), Candidates::default());
        for id in &place.own {
            let rules = &self.prefix_rules[*id as usize].plain;
            allow.take(&rules.allow, service);
            deny.take(&rules.deny, service);
        }
        for id in &place.hidden {
            deny.take(&self.prefix_rules[*id as usize].plain.deny, service);
        }
        for pattern in name.into_iter().flat_map(|name| self.names.matching(name)) {
            let rules = &self.pattern_rules[pattern as usize].anywhere;
            deny.take(&rules.deny, service);
            if place.public { &mut allow } else { &mut private }.take(&rules.allow, service);
            if self.pairs.is_empty() {
                continue;
            }
            for rules in place.own.iter().filter_map(|id| self.pairs.get(&(*id, pattern))) {
                allow.take(&rules.allow, service);
                deny.take(&rules.deny, service);
            }
            for rules in place.hidden.iter().filter_map(|id| self.pairs.get(&(*id, pattern))) {
                deny.take(&rules.deny, service);
            }
        }
        if let Some(index) = deny.first(|rule| place.asked.holds(rule, Action::Deny, name, about)) {
            return Ruling::Deny { rule: self.rule(index), reason: Reason::Rule };
        }
        let allow = allow.first(|rule| place.asked.holds(rule, Action::Allow, name, about));
        let private =
            private.first(|rule| allow.is_none() && place.asked.holds(rule, Action::Allow, name, about));
        match (allow, private, self.default_action) {
            (Some(index), ..) => Ruling::Allow { rule: self.rule(index) },
            (_, _, DefaultAction::AllowPublic) if place.public && service.protocol == Protocol::Tcp => {
                Ruling::Allow { rule: RuleRef::Default }
            }
            (_, Some(index), _) => Ruling::Deny { rule: self.rule(index), reason: Reason::PrivateName },
            _ if service.protocol == Protocol::Udp => {
                Ruling::Deny { rule: RuleRef::Default, reason: Reason::Udp }
            }
            (_, _, DefaultAction::AllowPublic) => {
                Ruling::Deny { rule: RuleRef::Default, reason: Reason::NotPublic }
            }
            (_, _, DefaultAction::Deny) => Ruling::Deny { rule: RuleRef::Default, reason: Reason::Default },
        }
    }

    /// The decision for a flow that has no requests and names none of its possible hosts.
    fn not_http(&self, place: &Place<'_>, names: &[Host]) -> Ruling<'_> {
        let worst = self.by_all_names(place, names, About::Worst);
        match worst {
            Ruling::Deny { rule, .. } if self.by_all_names(place, names, About::Best).is_allowed() => {
                Ruling::Deny { rule, reason: Reason::NotHttp }
            }
            _ => worst,
        }
    }

    /// One that is denied denies it, one that is allowed is enough.
    fn by_all_names(&self, place: &Place<'_>, names: &[Host], about: About<'_>) -> Ruling<'_> {
        let mut best = self.ruling(place, None, about);
        for name in names {
            let ruling = self.ruling(place, Some(name), about);
            best = match (best, ruling) {
                (
                    Ruling::Deny { reason: Reason::Rule, rule: a },
                    Ruling::Deny { reason: Reason::Rule, rule: b },
                ) => Ruling::Deny { reason: Reason::Rule, rule: first(a, b) },
                (Ruling::Deny { reason: Reason::Rule, .. }, _) => best,
                (_, Ruling::Deny { reason: Reason::Rule, .. }) => ruling,
                (Ruling::Allow { rule: a }, Ruling::Allow { rule: b }) => Ruling::Allow { rule: first(a, b) },
                (Ruling::Allow { .. }, _) => best,
                _ => ruling,
            };
        }
        best
    }

    /// Some DENY rule would match this address and port under some name.
    fn may_deny_by_name(&self, place: &Place<'_>) -> bool {
        let mut rules = Candidates::default();
        rules.take(&self.names_denied, place.service);
        for id in place.own.iter().chain(&place.hidden) {
            rules.take(&self.prefix_rules[*id as usize].names_denied, place.service);
        }
        rules.first(|rule| place.asked.could_hold(rule, Action::Deny)).is_some()
    }

    /// Of the denials under each name, the one that helps most.
    fn best_denial<'a>(&'a self, place: &Place<'_>, names: &[Host], unnamed: Ruling<'a>) -> Ruling<'a> {
        if names.is_empty() && place.public {
            let mut rules = Candidates::default();
            rules.take(&self.names_allowed, place.service);
            if rules.first(|rule| place.asked.could_hold(rule, Action::Allow)).is_some() {
                return Ruling::Deny { rule: HOST_NAME, reason: Reason::NoName };
            }
        }
        let rulings = names.iter().map(|name| self.ruling(place, Some(name), About::Best));
        let said = |ruling: &Ruling<'_>| matches!(ruling.rule(), RuleRef::Rule { .. });
        rulings.filter(said).min_by_key(|ruling| order(ruling.rule())).unwrap_or(unnamed)
    }

    fn rule(&self, index: u32) -> RuleRef<'_> {
        let index = index as usize;
        RuleRef::Rule { index, name: self.names_of_rules.get(index).and_then(Option::as_deref) }
    }
}

fn order(rule: RuleRef<'_>) -> usize {
    match rule {
        RuleRef::Rule { index, .. } => index,
        _ => usize::MAX,
    }
}

fn first<'a>(a: RuleRef<'a>, b: RuleRef<'a>) -> RuleRef<'a> {
    if order(b) < order(a) { b } else { a }
}
