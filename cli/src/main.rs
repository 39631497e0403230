//! `cordium`: the command line of a node.
//!
//! A thin client: it validates what the user wrote with the published schema, speaks gRPC to the control API on a
//! unix socket, and shows phases, output and errors as they come. It holds no state of its own.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 125 the command of `exec`/`run` could not be run at all, 126/127 it
//! could not be started inside, 130 interrupted, 141 our output was closed, else the command's own.

mod args;
mod autostart;
mod client;
mod cmd;
mod error;
mod host;
mod interrupt;
mod names;
mod output;
mod paths;
mod session;
mod spec;
mod startup;
mod sys;
mod tty;

use clap::Parser as _;

fn main() {
    // The probe changes its own namespaces, which only a process with one thread may do.
    if let Some(code) = host::probe::run_if_asked() {
        std::process::exit(code);
    }
    let cli = args::Cli::parse();
    output::init(&cli.global);
    let code = match cmd::dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            error.print();
            error.exit_code()
        }
    };
    tty::exit(code)
}
