//! Cgroups below a subtree that an administrator gave the supervisor's user, on v2 and on v1 hybrid hosts.
//!
//! Each workspace has one directory in every hierarchy, with two leaves: `keeper` for the outer container and `box`
//! for everything inside. Limits are on `box`. The keeper steps into `box`, lets its child be born there, and steps back.

mod delegate;
mod io_weight;
mod limits;
mod probe;
mod settle;
mod stats;
mod stay;
mod tree;

pub(crate) use limits::NPROC_INSTEAD;
pub use probe::{Hierarchy, HierarchyKind, Layout, ProbeError, probe};
pub(crate) use settle::settle;
pub(crate) use stats::keyed;
pub use stats::{Pressure, Stats, stats};
pub(crate) use stay::{Stay, name_ahead, remove_abandoned};
pub use tree::{CgroupError, CgroupPlan, Leaf};
