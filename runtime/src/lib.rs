//! One sandbox: from a plan as data to a running inner container, without privilege on the node.
//!
//! The supervisor builds a [`SandboxPlan`] and calls [`Sandbox::start`], which runs this same program again as a
//! *keeper*: the restricted outer container. The keeper becomes root of user namespace O, builds the gateway
//! network and the overlay, lets libcontainer create the inner container in user namespace I (a child of O) and
//! stays as its reaper. Nothing here knows of gRPC or of the workspace schema.

pub mod cgroup;
pub mod container;
pub mod gateway;
mod ids;
mod keeper;
mod node;
mod oci;
mod plan;
mod pool;
mod ranges;
mod ready_keeper;
mod sandbox;
mod sys;
mod usage;
pub mod userns;

pub use ids::{IdMap, IdMapError, IdRange, MAX_RANGES, SANDBOX_IDS};
pub use keeper::keeper_main;
pub use node::{Node, NodeError};
pub use plan::{Bind, DEFAULT_CAPABILITIES, Limits, NetworkPlan, PlanError, SandboxPlan};

/// How the message of a failed start begins the account of a bind whose target cannot be used, before the quoted target.
pub const MOUNT_TARGET: &str = "mount target";

pub use pool::{MAX_AHEAD, Pool};
pub use ranges::Ranges;
pub use sandbox::{AdoptError, KillError, PolicyError, Reported, Sandbox, SandboxExit, StartError};
pub use usage::{Room, Usage};
