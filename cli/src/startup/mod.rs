//! A workspace on its way to RUNNING or STOPPED, shown as it happens.

pub mod failure;
pub mod follow;
mod logs;
mod tracker;
mod view;

pub use follow::{Follow, Goal, Outcome};
