//! The inner container as an OCI runtime spec, and what libcontainer needs beside it.

mod executor;
mod seccomp;
mod spec;

pub use executor::AgentExecutor;
pub use seccomp::filters as seccomp_filters;
pub use spec::{AGENT_PATH, InnerPaths, SpecError, build, nofile_given};
