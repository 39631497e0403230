//! The conditions of a policy, and what they have answered while one flow or one name is decided.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::condition::{Condition, Facts, Moment, Place, Subject};
use crate::request::Scope;
use crate::{Action, Host, Request};

/// What one decision may ask, in nodes of conditions: a workspace chooses how many names lead to an address, and each
/// of them is asked for.
pub(crate) const BUDGET: u32 = 16_384;

/// What else rules ask for than a place and a name, by rule.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    list: Vec<Condition>,
    /// The place of a rule's condition in the list.
    of_rules: Vec<Option<usize>>,
    /// Of the rules that go by request.
    scopes: HashMap<u32, Scope>,
}

/// Which request is decided about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About<'r> {
    /// The one that fares best: every ALLOW by request is for it, no DENY is.
    Best,
    /// The one that fares worst, or what is no request.
    Worst,
    Request(&'r Request<'r>),
}

impl Conditions {
    /// Rules are added in their order.
    pub(crate) fn add(&mut self, rule: u32, condition: Condition) {
        self.of_rules.resize(rule as usize, None);
        self.of_rules.push(Some(self.list.len()));
        self.list.push(condition);
    }

    pub(crate) fn add_scope(&mut self, rule: u32, scope: Scope) {
        self.scopes.insert(rule, scope);
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn has_scopes(&self) -> bool {
        !self.scopes.is_empty()
    }

    /// That of a rule that goes by request.
    pub(crate) fn scope(&self, rule: u32) -> Option<&Scope> {
        self.scopes.get(&rule)
    }

    fn of(&self, rule: u32) -> Option<(usize, &Condition)> {
        let place = (*self.of_rules.get(rule as usize)?)?;
        Some((place, self.list.get(place)?))
    }
}

/// What is the same for all conditions of one decision, and what they have said. One that does not go by host is asked
/// once.
#[derive(Debug)]
pub(crate) struct Asked<'p> {
    conditions: &'p Conditions,
    subject: &'p Subject,
    at: Moment,
    place: Option<Place<'p>>,
    /// By the place of the condition, once there is one.
    answers: RefCell<Vec<Option<Option<bool>>>>,
    left: Cell<u32>,
}

impl<'p> Asked<'p> {
    pub(crate) fn new(
        conditions: &'p Conditions,
        subject: &'p Subject,
        at: Moment,
        place: Option<Place<'p>>,
    ) -> Self {
        Self { conditions, subject, at, place, answers: RefCell::default(), left: Cell::new(BUDGET) }
    }

    /// Whether the rule matches, as far as its condition and its requests go. Without an answer an ALLOW does not and a DENY
    /// does; where the flow, or the request that fares best, is not known yet, it is the other way round.
    pub(crate) fn holds(&self, rule: u32, action: Action, host: Option<&Host>, about: About<'_>) -> bool {
        let in_scope = self.conditions.scope(rule).is_none_or(|scope| match about {
            About::Best => action == Action::Allow,
            About::Worst => action == Action::Deny,
            About::Request(request) => scope.matches(action, request),
        });
        if !in_scope {
            return false;
        }
        let Some((place, condition)) = self.conditions.of(rule) else { return true };
        if condition.by_host() && host.is_none() {
            return false;
        }
        let not_known_yet = self.place.is_none() && condition.by_place()
            || matches!(about, About::Best) && condition.by_request();
        let closed = action == Action::Deny;
        match self.answer(place, condition, host, about) {
            Some(answer) => answer.unwrap_or(closed != not_known_yet),
            None => closed,
        }
    }

    /// Whether the rule could match under some host, for some request.
    pub(crate) fn could_hold(&self, rule: u32, action: Action) -> bool {
        let by_host = self.conditions.of(rule).is_some_and(|(_, condition)| condition.by_host());
        let about = if action == Action::Allow { About::Best } else { About::Worst };
        by_host || self.holds(rule, action, None, about)
    }

    /// None when nothing is left to ask with.
    fn answer(
        &self,
        place: usize,
        condition: &Condition,
        host: Option<&Host>,
        about: About<'_>,
    ) -> Option<Option<bool>> {
        if let Some(Some(answer)) = self.answers.borrow().get(place) {
            return Some(*answer);
        }
        self.left.set(self.left.get().checked_sub(condition.nodes())?);
        let request = match about {
            About::Request(request) => Some(request),
            About::Best | About::Worst => None,
        };
        let facts = Facts { subject: self.subject, at: self.at, host, place: self.place, request };
        let answer = condition.evaluate(&facts);
        if !condition.by_host() && !condition.by_request() {
            let mut answers = self.answers.borrow_mut();
            answers.resize(self.conditions.len(), None);
            answers[place] = Some(answer);
        }
        Some(answer)
    }
}
