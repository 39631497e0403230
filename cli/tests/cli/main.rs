//! The real program, run as a process against a supervisor made by hand.
#![allow(clippy::unwrap_used)]

mod autostart;
mod egress;
mod exec;
mod fake;
mod images;
mod local;
mod logs;
mod policy;
mod ports;
mod resources;
mod run;
mod terminal;
mod watch;
