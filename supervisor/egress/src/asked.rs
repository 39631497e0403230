//! The conditions of a policy, and what they have answered while one flow or one name is decided.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::condition::{Condition, Facts, Moment, Place, Subject};
use crate::{Action, Host};

/// What one decision may ask, in nodes of conditions: a workspace chooses how many names lead to an address, and each
/// of them is asked for.
pub(crate) const BUDGET: u32 = 16_384;

/// By rule.
#[derive(Debug, Default)]
pub(crate) struct Conditions(HashMap<u32, Condition>);

impl Conditions {
    pub(crate) fn add(&mut self, rule: u32, condition: Condition) {
        self.0.insert(rule, condition);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
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
    answers: RefCell<Vec<(u32, Option<bool>)>>,
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

    /// Whether the rule matches, as far as its condition goes. Without an answer an ALLOW does not and a DENY does; where
    /// the flow is not known yet, it is the other way round.
    pub(crate) fn holds(&self, rule: u32, action: Action, host: Option<&Host>) -> bool {
        let Some(condition) = self.conditions.0.get(&rule) else { return true };
        if condition.by_host() && host.is_none() {
            return false;
        }
        let not_known_yet = self.place.is_none() && condition.by_place();
        let closed = action == Action::Deny;
        match self.answer(rule, condition, host) {
            Some(answer) => answer.unwrap_or(closed != not_known_yet),
            None => closed,
        }
    }

    /// Whether the rule could match under some host.
    pub(crate) fn could_hold(&self, rule: u32, action: Action) -> bool {
        let by_host = self.conditions.0.get(&rule).is_some_and(Condition::by_host);
        by_host || self.holds(rule, action, None)
    }

    /// None when nothing is left to ask with.
    fn answer(&self, rule: u32, condition: &Condition, host: Option<&Host>) -> Option<Option<bool>> {
        if !condition.by_host()
            && let Some((_, answer)) = self.answers.borrow().iter().find(|(asked, _)| *asked == rule)
        {
            return Some(*answer);
        }
        self.left.set(self.left.get().checked_sub(condition.nodes())?);
        let answer =
            condition.evaluate(&Facts { subject: self.subject, at: self.at, host, place: self.place });
        if !condition.by_host() {
            self.answers.borrow_mut().push((rule, answer));
        }
        Some(answer)
    }
}
