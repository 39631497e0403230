//! `cargo xtask`: the developer's tasks. One file for each.

mod bench;
mod cargo;
mod demo;
mod guard;
mod policy;
mod setup;
mod step;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Developer tasks of cordium-node")]
enum Task {
    /// Prepare this machine: packages, the unprivileged user, subordinate ids, delegated cgroups
    Setup,
    /// Run a workspace end to end: registry, git server, supervisor, `cordium run`, a summary
    Demo(demo::Args),
    /// Everything that CI runs
    Test(test::Args),
    /// Measure starts, execs, pulls, memory and the network beside crun, runc, podman, skopeo, umoci, slirp4netns and pasta
    Bench(bench::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Setup => setup::run().await,
        Task::Demo(args) => demo::run(args).await,
        Task::Test(args) => test::run(args).await,
        Task::Bench(args) => bench::run(args).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
