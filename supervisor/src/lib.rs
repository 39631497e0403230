//! The node daemon: owns the workspaces of one node from request to storage, and tells their phases.
//!
//! A start travels `grpc::node` → `plan` → [`workspaces`] → [`workspace`] → `runtime` and the agent; phases come back
//! through [`store`] → [`phases`]. The daemon never runs tenant code and needs no privilege.

pub mod agent_link;
pub mod broker_process;
pub mod capacity;
pub mod config;
pub mod confine;
pub mod context;
pub mod dirs;
pub mod embedded;
pub mod failure;
pub mod grpc;
pub mod id_ranges;
pub mod images;
pub mod init;
pub mod logs;
pub mod node_runtime;
pub mod options;
pub mod own_log;
pub mod owners;
pub mod phases;
pub mod plan;
pub mod request_error;
pub mod runtime;
pub mod serve;
pub mod store;
pub mod stored_images;
pub mod telemetry;
pub mod timeouts;
pub mod usage;
pub mod volumes;
pub mod workspace;
pub mod workspaces;
