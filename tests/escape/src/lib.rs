//! Attacks on a sandbox by its own root, one by one.
//!
//! The program `cordium-escape` runs inside; the end-to-end group `escape` starts it, gives it facts about the node that a
//! tenant would have to guess, and looks after each attack whether node, neighbour and sandbox are unharmed. Every step
//! of an attack names the defence that must stop it and the error numbers by which that shows: one that succeeds is an
//! escape, and one that fails in another way is a failure too, for it proves nothing.

mod attacks;
pub mod exhaust;
mod facts;
mod places;
mod probe;
mod sys;

pub use attacks::{CASES, Case, confinement, find, listen_abstract};
pub use facts::Facts;
pub use places::dig;
pub use probe::{Layer, Probe, Report, Step, Verdict};
pub use sys::clear_parent_death_signal;
