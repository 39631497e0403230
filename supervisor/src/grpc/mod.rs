//! The node's gRPC services. Thin: what they do is done elsewhere.

mod denials;
pub mod node;
pub mod server;
pub mod session;
mod status;
