//! What this machine offers, and how it is made ready.

pub mod cgroup;
pub mod check;
pub mod delegate;
pub mod ids;
pub mod kernel;
pub mod probe;
pub mod tools;
pub mod users;
