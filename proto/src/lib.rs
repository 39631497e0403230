//! The gRPC contract between `cordium`, the scheduler, the supervisor and the agent.
//!
//! A start request travels `Control` (scheduler) → `Node` (supervisor) → `Agent`; phases come back as
//! [`v1::PhaseEvent`]s. [`v1::session_server::Session`] is served at every level.

/// The generated types and services of `cordium.v1`.
pub mod v1 {
    #![allow(clippy::all, missing_docs, rust_2018_idioms)]
    tonic::include_proto!("cordium.v1");
}

/// The encoded `FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The trailer that carries the next step to take, beside a status's message.
pub const HINT_KEY: &str = "cordium-hint";

/// How the one warning of a workspace begins that tells of processes killed for want of memory; a newer one replaces it.
pub const OOM_WARNING: &str = "the out-of-memory killer";

/// The largest gRPC message that any of our services accepts, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 8 << 20;

impl v1::WorkspaceState {
    /// The state's name as people write it, without its prefix: `PULLING_IMAGE`.
    pub fn short_name(self) -> &'static str {
        self.as_str_name().trim_start_matches("WORKSPACE_STATE_")
    }
}
