//! The harness of the end-to-end tests: real registries, git servers and supervisors, started as an unprivileged user
//! in fresh directories, driven through the real command line and over gRPC.
//!
//! The tests themselves are in `tests/`, one file for each group of cases. `xtask` uses the same pieces for its demo
//! and its benchmarks, so that what a person sees is what the tests check.

#[cfg(test)]
mod bad_input;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod containers;
pub mod delegation;
pub mod fixture;
pub mod forward;
pub mod git;
pub mod http;
pub mod hybrid;
pub mod images;
pub mod leak;
pub mod listening;
pub mod node;
pub mod oci;
pub mod otlp;
pub mod paths;
pub mod pod;
pub mod postgres;
pub mod process;
pub mod registry;
pub mod sigv4;
pub mod spec;
pub mod subordinate;
pub mod suite;
pub mod tls;
pub mod user;
pub mod watch;
pub mod workspace;

pub use anyhow::{Context, Result, anyhow, bail, ensure};
pub use cordium_proto::v1;
pub use fixture::Fixture;
pub use serde_json::json;
pub use suite::{Suite, skip};
pub use workspace::Workspace;

/// Fails the case unless two values are equal, and shows both.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => {
                $crate::ensure!(*left == *right, "{} is {:?}, expected {:?}", stringify!($left), left, right)
            }
        }
    };
}
