//! The state machine of a workspace, driven through the Node service, with a fake runtime and a fake agent.
#![allow(clippy::unwrap_used)]

mod credentials;
mod egress;
mod fakes;
mod ids;
mod lifecycle;
mod node;
mod restart;
mod servers;
mod services;
mod sessions;
mod stopping;
mod volumes;
