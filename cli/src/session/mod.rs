//! Commands, terminals and logs of a running workspace, joined to our own standard streams.

pub mod detach;
pub mod exec;
pub mod forward;
pub mod loglines;
pub mod stdin;
pub mod terminal;
