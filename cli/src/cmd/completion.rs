//! `cordium completion`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Outcome;
use crate::{args::Cli, output};

/// For bash: `source <(cordium completion bash)`.
#[derive(clap::Args, Debug)]
pub struct Args {
    pub shell: Shell,
}

pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cordium", &mut script);
    output::print(&String::from_utf8_lossy(&script));
    Ok(0)
}
