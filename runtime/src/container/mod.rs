//! One OCI container from a bundle, for callers that drive a runtime from outside: the OCI operations over the same
//! parts that the keeper uses (libcontainer for init, seccompiler for filters), and an `exec` of our own.
//!
//! ```text
//!            create                start              init ends
//!   (none) ─────────▶ created ─────────────▶ running ───────────▶ stopped ── delete ──▶ (none)
//!                        │                    │   ▲                  ▲
//!                        │              pause ▼   │ resume           │
//!                        │                   paused                  │
//!                        └────────────────── kill ───────────────────┘
//! ```
//!
//! Everything here must run in a process with one thread: namespaces are joined and processes forked.

mod adapt;
mod cgroups;
mod create;
mod error;
mod exec;
mod executor;
mod features;
mod identity;
mod kill;
mod late_hooks;
mod process;
mod seccomp;
mod store;

pub use create::{Create, create};
pub use error::ContainerError;
pub use exec::{Exec, Executed, exec};
pub use features::features;
pub use oci_spec::runtime as spec;
pub use store::{OpenContainer, State, Store};
