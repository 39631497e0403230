//! Cgroups below a subtree that an administrator gave the supervisor's user, on v2 and on v1 hybrid hosts.
//!
//! Each workspace has one directory in every hierarchy, with two leaves: `keeper` for the outer container and `box`
//! for everything inside. Limits are on `box`. A process may enter a v1 hierarchy only by its own user's hand, so
//! the keeper steps into `box`, lets its child be born there, and steps back.

mod limits;
mod probe;
mod tree;

pub use limits::{Stats, stats};
pub use probe::{Hierarchy, HierarchyKind, Layout, ProbeError, probe};
pub use tree::{CgroupError, CgroupPlan, Leaf};
