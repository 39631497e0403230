//! `cordium exec`.

use cordium_proto::v1::ExecStart;

use super::Outcome;
use crate::{
    args::Global,
    client::{Client, Start},
    error::{CliError, EXIT_NOT_RUN},
    session, spec, tty,
};

/// The command gets standard input (its end included), signals and, with -t, a terminal; its exit code becomes ours.
#[derive(clap::Args, Debug)]
#[command(override_usage = "cordium exec <WORKSPACE> [OPTIONS] -- <COMMAND>...")]
pub struct Args {
    /// The workspace's name or uid
    pub workspace: String,
    /// Working directory [default: the user's home]
    #[arg(short = 'w', long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// As root instead of the workspace's user
    #[arg(long)]
    pub root: bool,
    /// Environment variable (KEY alone takes the value from your environment)
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = spec::parse::env)]
    pub env: Vec<(String, String)>,
    /// Give the command an empty standard input
    #[arg(long)]
    pub no_stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// Accepted for convenience: standard input is passed on anyway
    #[arg(short = 'i', long, hide = true)]
    pub interactive: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

pub async fn run(global: &Global, args: Args) -> Outcome {
    if args.command.is_empty() {
        return Err(CliError::usage("no command to run").hint(format!(
            "write it after `--`, or open a shell with `cordium terminal {}`",
            args.workspace
        )));
    }
    let client = Client::connect(global, Start::Never).await.map_err(|e| e.code(EXIT_NOT_RUN))?;
    let start = ExecStart {
        workspace: args.workspace.clone(),
        command: args.command,
        working_dir: args.workdir.unwrap_or_default(),
        env: args.env.into_iter().collect(),
        run_as_root: args.root,
        stdin: !args.no_stdin,
        tty: args.tty.then(tty::size),
    };
    session::exec::exec(&client, start, &args.workspace).await
}
