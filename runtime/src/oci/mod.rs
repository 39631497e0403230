//! The inner container as an OCI runtime spec, and what libcontainer needs beside it.

mod executor;
mod seccomp;
mod spec;

pub use executor::AgentExecutor;
pub use seccomp::{SeccompError, compile as compile_seccomp};
pub use spec::{AGENT_PATH, InnerPaths, SpecError, build};
