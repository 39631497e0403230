//! The real binary as PID 1 of fresh namespaces, driven over gRPC. Needs root; elsewhere each test says so and
//! passes nothing off as checked.
#![allow(clippy::unwrap_used)]

mod exec;
mod files;
mod git;
mod git_server;
mod harness;
mod shutdown;
mod tasks;
mod terminals;
mod trust;
