//! `cordium stop`.

use super::{Outcome, resource};
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, EXIT_INTERRUPTED},
    interrupt::Interrupt,
    output,
    startup::{self, Follow, Goal},
};

/// Runs PRE_STOP tasks, then ends every process. Returns when the request is accepted; with --wait, when it is done.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Names or uids
    #[arg(required = true, value_name = "WORKSPACE")]
    pub workspaces: Vec<String>,
    /// The space it lies in [default: default]
    #[arg(long, value_name = "SPACE", default_value = "", hide_default_value = true)]
    pub space: String,
    /// Without PRE_STOP tasks and graceful ends
    #[arg(long)]
    pub force: bool,
    /// Show the phases until it has stopped
    #[arg(short = 'w', long)]
    pub wait: bool,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    let mut interrupt = Interrupt::arm()?;
    let client = Client::connect(global, Start::Never).await?;
    let mut failed = None;
    for name in &args.workspaces {
        match one(&client, name, &args, &mut interrupt).await {
            Ok(()) => {}
            Err(e) if e.exit_code() == EXIT_INTERRUPTED => return Err(e),
            Err(e) => {
                e.print();
                failed = Some(e.exit_code());
            }
        }
    }
    match failed {
        Some(code) => Err(CliError::silent(code)),
        None => Ok(0),
    }
}

async fn one(client: &Client, name: &str, args: &Args, interrupt: &mut Interrupt) -> Result<(), CliError> {
    let there = resource::workspace(client, name, &args.space).await?;
    if !args.wait {
        resource::stop(client, &there, args.force).await?;
        output::note(&format!("workspace {} is stopping", resource::name(&there)));
        return Ok(());
    }
    let follow = Follow::begin(client, &there, false).await?;
    resource::stop(client, &there, args.force).await?;
    match follow.until(Goal::Stopped, &resource::run_id(&there), interrupt).await? {
        startup::Outcome::Reached => Ok(()),
        startup::Outcome::Interrupted => {
            Err(CliError::new(format!("left; workspace {name} goes on stopping"))
                .hint("`cordium stop --force` ends it at once")
                .code(EXIT_INTERRUPTED))
        }
    }
}
