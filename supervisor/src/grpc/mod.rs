//! The node's gRPC services. Thin: what they do is done elsewhere.

pub mod node;
pub mod server;
pub mod session;
mod status;
