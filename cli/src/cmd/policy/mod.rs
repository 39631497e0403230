//! `cordium policy`: what a workspace may reach.

mod destination;
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
    /// Tell what a policy makes of destinations, without a node; exits with 1 if one is denied
    Test(test::Args),
}

pub fn run(_global: &Global, args: Args) -> Outcome {
    match args.what {
        What::Test(args) => test::run(&args),
    }
}
