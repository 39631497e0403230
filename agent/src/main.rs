//! PID 1 of a sandbox, and the two small helpers that live in the same static binary.
//!
//! It runs in whatever image the user brings, so it uses nothing of it: no libc, no shell, no name service.

mod accounts;
mod boot;
mod cgroups;
mod clone_plan;
mod command;
mod dotfiles;
mod environment;
mod etc;
mod events;
mod exec;
mod failures;
mod files;
mod forward;
mod git;
mod identity;
mod logs;
mod main_process;
mod ports;
mod prepare;
mod process;
mod pty;
mod reaper;
mod repositories;
mod rootfs;
mod rootless;
mod run_dir;
mod scrollback;
mod service;
mod shutdown;
mod spawn;
mod state;
mod state_dir;
mod sys;
mod system_init;
mod tail;
mod task_sessions;
mod tasks;
mod terminal;
mod terminals;
mod tree;
mod trust;
mod workspace_user;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None | Some("init") => report(boot::init()),
        Some("idle") => report(boot::idle()),
        Some("git-credential") => git::credential::helper_main(arguments.next().as_deref()),
        Some("--version") => {
            println!("cordium-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!("cordium-agent: unknown subcommand `{other}`; known: idle, git-credential");
            ExitCode::from(2)
        }
    }
}

fn report(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cordium-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
