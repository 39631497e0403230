//! `cordium-supervisor`: the node daemon and, as subcommands that it starts itself, its helpers.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use cordium_supervisor::{confine, init, options::ServeOptions, own_log::OwnLog, serve};
use rustix::{fs::Mode, process::umask};
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "cordium-supervisor", version, about = "Runs the workspaces of one node")]
struct Options {
    /// Write the log as one JSON object per line
    #[arg(long, global = true)]
    log_json: bool,
    /// What to log, for example `info` or `cordium_supervisor=debug`
    #[arg(long, global = true, env = "CORDIUM_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the node
    Serve(Box<ServeOptions>),
    /// The egress broker; `serve` starts it
    #[command(hide = true)]
    Broker {
        /// Where keepers register
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Leave the session of whoever started it
        #[arg(long)]
        detach: bool,
    },
    /// The keeper of one workspace; `serve` starts it
    #[command(hide = true)]
    Keeper,
    /// The unpacker of image layers; `serve` starts it
    #[command(hide = true)]
    Unpack,
}

/// No thread is started before the command is known: a keeper must stay single-threaded.
fn main() -> ExitCode {
    let options = Options::parse();
    if matches!(options.command, Command::Serve(_)) && init::is_first() {
        return init::run();
    }
    start_log(&options);
    match options.command {
        Command::Serve(serve) => serve_node(*serve),
        Command::Broker { socket, detach } => {
            umask(Mode::RWXG | Mode::RWXO);
            if detach && let Err(error) = rustix::process::setsid() {
                tracing::warn!(%error, "leaving the session");
            }
            cordium_broker::broker_main(cordium_broker::BrokerOpts::new(socket))
        }
        Command::Keeper => {
            // The modes that it gives are seen inside the sandbox.
            umask(Mode::WGRP | Mode::WOTH);
            // Wherever we were started may be hidden by the keeper's own mounts.
            if let Err(error) = rustix::process::chdir("/") {
                tracing::warn!(%error, "leaving the working directory");
            }
            cordium_runtime::keeper_main()
        }
        Command::Unpack => {
            umask(Mode::WGRP | Mode::WOTH);
            cordium_image::unpack_main()
        }
    }
}

fn serve_node(options: ServeOptions) -> ExitCode {
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = init::unblock_signals() {
        eprintln!("cordium-supervisor: unblocking signals: {error}");
        return ExitCode::FAILURE;
    }
    if let Err(error) = confine::confine() {
        eprintln!("cordium-supervisor: {error}");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cordium-supervisor: starting threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(serve::serve(options));
    // Blocking reads that are half done are not worth waiting for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cordium-supervisor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start_log(options: &Options) {
    let filter = EnvFilter::try_new(&options.log).unwrap_or_else(|error| {
        eprintln!("cordium-supervisor: --log {:?} is not understood ({error}); logging info", options.log);
        EnvFilter::new("info")
    });
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(OwnLog::new());
    if options.log_json {
        log.json().init();
    } else {
        log.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    }
}
