//! The command line as clap sees it; each command's own arguments stand in its file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::cmd;

#[derive(Parser, Debug)]
#[command(
    name = "cordium",
    version,
    about = "Isolated workspaces for developers, agents and automation",
    propagate_version = false,
    disable_help_subcommand = true,
    after_help = "Exit codes: 1 failed, 2 wrong usage, 125 the command could not be run at all, 130 interrupted, \
                  else that of the command run with `exec` or `run -- CMD`."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args, Debug, Default, Clone)]
pub struct Global {
    /// Socket of the control API [default: cordium.sock in the run directory]
    #[arg(long, global = true, env = "CORDIUM_SOCKET", value_name = "PATH", help_heading = "Global options")]
    pub socket: Option<PathBuf>,
    /// State directory of a supervisor that is started [default: ~/.local/share/cordium]
    #[arg(
        long,
        global = true,
        env = "CORDIUM_STATE_DIR",
        value_name = "DIR",
        help_heading = "Global options"
    )]
    pub state_dir: Option<PathBuf>,
    /// Run directory of the supervisor [default: $XDG_RUNTIME_DIR/cordium, else /tmp/cordium-UID]
    #[arg(long, global = true, env = "CORDIUM_RUN_DIR", value_name = "DIR", help_heading = "Global options")]
    pub run_dir: Option<PathBuf>,
    /// Do not start a supervisor when none answers
    #[arg(long, global = true, env = "CORDIUM_NO_AUTOSTART", help_heading = "Global options",
          value_parser = clap::builder::FalseyValueParser::new())]
    pub no_autostart: bool,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create a workspace if need be, start it, and run a command or open a terminal in it
    Run(cmd::run::Args),
    /// Create a workspace, space, template, secret or volume
    Create(cmd::create::Args),
    /// Create or update what a YAML file describes
    Apply(cmd::apply::Args),
    /// Start a workspace
    Start(cmd::start::Args),
    /// Stop a workspace
    Stop(cmd::stop::Args),
    /// Delete workspaces, spaces, templates, secrets or volumes
    #[command(alias = "rm")]
    Delete(cmd::delete::Args),
    /// Show workspaces, spaces, templates, secrets or volumes
    #[command(alias = "ls")]
    Get(cmd::get::Args),
    /// Run a command in a running workspace
    Exec(cmd::exec::Args),
    /// Open a terminal in a running workspace
    #[command(visible_alias = "term")]
    Terminal(cmd::terminal::Args),
    /// Show the ports that listen in a running workspace
    Ports(cmd::ports::Args),
    /// Show the address of a port of a workspace, for a browser on this machine
    Open(cmd::open::Args),
    /// Carry local connections to ports of a running workspace
    PortForward(cmd::port_forward::Args),
    /// Show a workspace's log: image, clones, tasks
    Logs(cmd::logs::Args),
    /// Show phases as they happen
    Watch(cmd::watch::Args),
    /// Show what a workspace was refused outside
    Egress(cmd::egress::Args),
    /// List, pull and remove images of this node
    #[command(visible_alias = "images")]
    Image(cmd::image::Args),
    /// Create, list and delete volumes, whose data outlives workspaces
    #[command(visible_aliases = ["volumes", "vol"])]
    Volume(cmd::volume::Args),
    /// Show who did what, and whether the log of it was touched
    Audit(cmd::audit::Args),
    /// Show, change and try out what a workspace may reach
    Policy(cmd::policy::Args),
    /// Check what this machine offers, with the fix for what is missing
    Doctor(cmd::doctor::Args),
    /// Prepare this machine for an ordinary user (once, as root)
    Setup(cmd::setup::Args),
    /// Show the nodes and their load, or one workspace
    Status(cmd::status::Args),
    /// Show the versions of this client and of the supervisor
    Version(cmd::version::Args),
    /// Print a completion script
    Completion(cmd::completion::Args),
    /// Print the JSON Schema of a kind of resource
    Schema(cmd::schema::Args),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_a_command_after_two_dashes() {
        let cli = Cli::try_parse_from(["cordium", "run", "dev", "--image", "x", "--", "ls", "-l"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.name.as_deref(), Some("dev"));
        assert_eq!(args.command, ["ls", "-l"]);
        let cli = Cli::try_parse_from(["cordium", "run", "--", "ls"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!((args.name, args.command), (None, vec!["ls".to_owned()]));
    }

    #[test]
    fn image_and_dockerfile_exclude_each_other() {
        let parsed =
            Cli::try_parse_from(["cordium", "create", "ws", "a", "--image", "x", "--dockerfile", "D"]);
        assert!(parsed.is_err());
    }

    #[test]
    fn aliases() {
        for words in [
            &["cordium", "get", "ws"][..],
            &["cordium", "get", "tmpl", "x"],
            &["cordium", "create", "tmpl", "x"],
            &["cordium", "term", "x"],
            &["cordium", "delete", "secrets", "a", "b"],
            &["cordium", "image", "ls"],
            &["cordium", "vol", "ls", "-o", "yaml"],
            &["cordium", "create", "vol", "x", "--size", "1G", "--shared"],
            &["cordium", "get", "volumes", "x"],
            &["cordium", "policy", "get", "x", "--merged", "-o", "json"],
            &["cordium", "policy", "set", "x", "-f", "-"],
            &["cordium", "policy", "test", "-f", "x", "a.example:443", "-o", "json"],
            &["cordium", "run", "x", "--volume", "data:/data:ro"],
        ] {
            Cli::try_parse_from(words).unwrap();
        }
    }
}
