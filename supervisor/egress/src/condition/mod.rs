//! Conditions of rules: a bounded part of CEL, checked when a policy is read, evaluated when a flow is decided.
//!
//! ```text
//! text ──lex──▶ words ──parse──▶ tree ──check──▶ Condition ──evaluate(Facts)──▶ true, false, or no answer
//! ```
//!
//! What is let through by [`Condition::parse`] has a bounded cost by its form alone: see [`check`].

mod check;
mod evaluate;
mod facts;
mod field;
mod lex;
mod parse;
#[cfg(test)]
mod tests;

use cel::IdedExpr;
use thiserror::Error;

pub(crate) use facts::{Facts, Place};
pub use facts::{Moment, Subject};

/// A condition as it is written, in bytes.
pub const MAX_CONDITION: usize = 4 << 10;
/// Conditions of one policy.
pub const MAX_CONDITIONS: usize = 256;
/// Words and signs.
const MAX_TOKENS: usize = 1_024;
/// Operators, fields and values.
const MAX_NODES: usize = 256;
/// How far parentheses, lists, calls and choices go into each other, and how long a chain of one operator is.
const MAX_DEPTH: usize = 16;
/// How deep the tree is: chains of several operators within each level.
const MAX_TREE: usize = 32;
/// Characters of a word that an error repeats.
const SHOWN: usize = 64;

/// What is wrong with a condition, where, and what may stand there.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("was {was}; allowed: {allowed}")]
pub struct ConditionError {
    /// With line and column.
    pub was: String,
    pub allowed: String,
}

impl ConditionError {
    fn at(text: &str, place: usize, was: impl Into<String>, allowed: impl Into<String>) -> Self {
        let before = text.get(..place).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
        Self { was: format!("{} at line {line}, column {column}", was.into()), allowed: allowed.into() }
    }
}

/// Cut: it may come from anybody. Words are ASCII.
fn quote(word: &str) -> String {
    let mut shown: String = word.chars().take(SHOWN).collect();
    if shown.len() < word.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

/// A condition that is ready to be asked.
#[derive(Debug)]
pub(crate) struct Condition {
    tree: IdedExpr,
    uses: check::Uses,
    nodes: u32,
}

impl Condition {
    pub(crate) fn parse(text: &str) -> Result<Self, ConditionError> {
        if text.len() > MAX_CONDITION {
            return Err(ConditionError {
                was: format!("{} bytes", text.len()),
                allowed: format!("at most {MAX_CONDITION} bytes"),
            });
        }
        let mut parsed = parse::parse(text)?;
        let uses = check::check(text, &mut parsed)?;
        let nodes = u32::try_from(parsed.places.len()).unwrap_or(u32::MAX);
        Ok(Self { tree: parsed.tree, uses, nodes })
    }

    /// It asks for the host: it holds under a name only, and its rule is one that goes by host.
    pub(crate) fn by_host(&self) -> bool {
        self.uses.host
    }

    /// It asks for what is not known yet when a name is resolved.
    pub(crate) fn by_place(&self) -> bool {
        self.uses.place
    }

    /// It asks for the method or the path: its rule is one that goes by request.
    pub(crate) fn by_request(&self) -> bool {
        self.uses.request
    }

    /// What it costs to ask, at most.
    pub(crate) fn nodes(&self) -> u32 {
        self.nodes
    }
}
