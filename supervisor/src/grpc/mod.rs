//! The node's gRPC services and their listeners. Thin: what they do is done elsewhere.

pub mod listen;
pub mod node;
pub mod server;
pub mod session;
mod status;
