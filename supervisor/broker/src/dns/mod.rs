//! The workspaces' name server: a few local names, the rest forwarded to the node's resolvers.
//!
//! Only names that the policy allows are asked for: a question is a way out too. What is answered is remembered (`pins.rs`). A
//! name that resolves to a protected address is answered all the same: the decision on the flow protects.

mod answers;
mod message;
mod serve;
mod upstream;

pub(crate) use answers::addresses;
pub(crate) use message::{Action, act};
pub(crate) use serve::Names;
pub(crate) use upstream::{RESOLV_CONF, Upstreams};
