//! `cordium start`.

use super::{Outcome, resource};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, EXIT_INTERRUPTED},
    interrupt::Interrupt,
    output, spec,
    startup::{self, Follow, Goal},
};

/// Returns when the request is accepted; with --wait, when the workspace runs.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The workspace's name or uid
    pub workspace: String,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// Variable for this run, before those of the workspace and its template
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = spec::parse::key_value)]
    pub vars: Vec<(String, String)>,
    /// Start it on this node
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    pub node: String,
    /// Show the phases until it runs
    #[arg(short = 'w', long)]
    pub wait: bool,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let mut interrupt = Interrupt::arm()?;
    let client = Client::connect(global, Start::IfNeeded).await?;
    let there = resource::workspace(&client, &args.workspace, &args.space).await?;
    if !args.wait {
        let started = resource::start(&client, &there, &args.vars, &args.node).await?;
        say_accepted(resource::name(&started));
        return Ok(0);
    }
    let follow = Follow::begin(&client, &there, true).await?;
    let started = resource::start(&client, &there, &args.vars, &args.node).await?;
    match follow.until(Goal::Running, &resource::run_id(&started), &mut interrupt).await? {
        startup::Outcome::Reached => Ok(0),
        startup::Outcome::Interrupted => {
            Err(CliError::new(format!("left; workspace {} goes on starting", args.workspace))
                .hint(format!("`cordium watch {0}` shows it, `cordium stop {0}` ends it", args.workspace))
                .code(EXIT_INTERRUPTED))
        }
    }
}

pub fn say_accepted(name: &str) {
    output::note(&format!("workspace {name} is starting; `cordium watch {name}` shows its phases"));
}
