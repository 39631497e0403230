//! The arguments, in the words that other OCI runtimes use, so that engines can call this one.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// An OCI runtime command line over Cordium's container runtime
#[derive(Parser, Debug)]
#[command(name = "cordium-oci", version, disable_help_subcommand = true)]
pub struct Args {
    /// Where the state of containers is kept
    /// [default: /run/cordium-oci as root, else $XDG_RUNTIME_DIR/cordium-oci]
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Append failures to this file, too
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Accepted and refused by name: cgroups are managed without systemd
    #[arg(long, global = true, hide = true)]
    pub systemd_cgroup: bool,
    /// Accepted for engines that pass it; failures are always told in full
    #[arg(long, global = true, hide = true)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create a container from a bundle; its program waits for `start`
    Create(Create),
    /// Run the program of a created container
    Start { id: String },
    /// Print the state of a container as JSON
    State { id: String },
    /// Print the containers as JSON
    List,
    /// Send a signal to a container's init
    Kill {
        id: String,
        /// A name or a number
        #[arg(default_value = "TERM")]
        signal: String,
        /// To every process of the container
        #[arg(long, short)]
        all: bool,
    },
    /// Remove a stopped container
    Delete {
        id: String,
        /// Kill it first if it runs; succeed if it does not exist
        #[arg(long, short)]
        force: bool,
    },
    /// Run another process in a running container
    Exec(Exec),
    /// Freeze every process of a container
    Pause { id: String },
    /// Thaw a paused container
    Resume { id: String },
    /// Change the limits of a container
    Update(Update),
    /// Print what this runtime supports as JSON
    Features,
}

impl Command {
    /// Whether a process of this program is for a moment inside the container.
    pub fn enters_a_container(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Exec(_))
    }
}

#[derive(clap::Args, Debug)]
pub struct Create {
    pub id: String,
    /// The directory that holds `config.json`
    #[arg(long, short, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,
    /// A unix socket that is sent the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A file that init's pid is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// How many descriptors after standard error the program is given
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: i32,
    /// Change the root with MS_MOVE and chroot instead of pivot_root
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted for engines that pass it; no keyring is ever made
    #[arg(long, hide = true)]
    pub no_new_keyring: bool,
}

#[derive(clap::Args, Debug)]
pub struct Exec {
    pub id: String,
    /// The process as a JSON file; flags and arguments are not needed then
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// A unix socket that is sent the terminal's descriptor
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// A file that the process's pid is written to
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Return once the process runs
    #[arg(long, short)]
    pub detach: bool,
    /// Give the process a terminal (through the console socket)
    #[arg(long, short)]
    pub tty: bool,
    /// The working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// NAME=VALUE, added to the container's environment
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// UID or UID:GID
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// A capability on top of the container's
    #[arg(long, short, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Forbid the process to gain privileges
    #[arg(long)]
    pub no_new_privs: bool,
    /// How many descriptors after standard error the process is given
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub preserve_fds: i32,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(clap::Args, Debug)]
pub struct Update {
    pub id: String,
    /// `linux.resources` as a JSON file, - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Memory limit in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<i64>,
    /// Limit of memory and swap together in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<i64>,
    /// CPU time per period in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// The period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    #[arg(long = "cpu-share", alias = "cpu-shares", value_name = "SHARES")]
    pub cpu_shares: Option<u64>,
    /// Processors, as in 0-3,5
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// The most processes and threads
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
}
