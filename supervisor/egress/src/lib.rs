//! What a workspace may reach: an egress policy, compiled once and asked for every flow and every name.
//!
//! Pure: no sockets, no clock. The broker asks, the command line tests policies with it, the spec is validated by it.
//! The semantics are in `docs/decisions/0050-egress-policy.md`; [`Compiled`] is fast, and its tests compare it with a
//! slow reading of the same text.

mod address;
mod asked;
pub mod binding;
mod cidr;
mod compile;
mod compiled;
mod condition;
mod host;
#[cfg(test)]
mod naive;
mod names;
pub mod path;
mod policy;
mod ports;
mod prefixes;
mod protected;
mod protocol;
mod public;
mod request;
#[cfg(test)]
mod semantics;
pub mod service;
mod verdict;

pub use address::spellings;
pub use cidr::Cidr;
pub use compiled::{ByName, Compiled, Flow, Said, Settled, Verdict};
pub use condition::{ConditionError, MAX_CONDITION, MAX_CONDITIONS, Moment, Subject};
pub use host::{Host, HostError, Pattern};
pub use policy::{
    Action, DefaultAction, MAX_BYTES, MAX_ENTRIES, MAX_PROTECTED, MAX_RULES, Policy, PolicyError, Rule,
};
pub use protected::{Protected, find as protected};
pub use protocol::Protocol;
pub use public::is_public;
pub use request::Request;
pub use verdict::{Reason, RuleRef, Ruling};
