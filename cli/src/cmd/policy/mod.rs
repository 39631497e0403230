//! `cordium policy`: what a workspace may reach.

mod context;
mod destination;
mod get;
mod set;
mod test;

use super::Outcome;
use crate::args::Global;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print a workspace's policy
    Get(get::Args),
    /// Change a workspace's policy, in its run too
    Set(set::Args),
    /// Tell what a policy makes of destinations, without a node; exits with 1 if one is denied
    Test(test::Args),
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    match args.what {
        What::Get(args) => get::run(global, args).await,
        What::Set(args) => set::run(global, args).await,
        What::Test(args) => test::run(&args),
    }
}
