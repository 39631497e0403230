//! The workspaces' name server: a few local names, the rest forwarded to the node's resolvers.
//!
//! A name that resolves to a protected address is answered all the same: the decision on the flow protects.

mod message;
mod serve;
mod upstream;

pub(crate) use serve::Names;
pub(crate) use upstream::{RESOLV_CONF, Upstreams};
