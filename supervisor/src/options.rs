//! What `serve` is told on its command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;

/// Serve a node: its workspaces, their phases and its images.
#[derive(Debug, Clone, Args)]
pub struct ServeOptions {
    /// What persists: databases, images, workspaces [default: $XDG_DATA_HOME/cordium, else ~/.local/share/cordium]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Sockets, gone at reboot [default: $XDG_RUNTIME_DIR/cordium, else /tmp/cordium-UID]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The node's name [default: this machine's]
    #[arg(long, value_name = "NODE")]
    pub name: Option<String>,
    /// Serve schedulers on this address too, with mutual TLS
    #[arg(long, value_name = "ADDR", requires_all = ["tls_cert", "tls_key", "tls_client_ca"])]
    pub listen_tls: Option<SocketAddr>,
    /// This node's certificate chain, PEM
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_key: Option<PathBuf>,
    /// The authority that signs schedulers' certificates, PEM
    #[arg(long, value_name = "FILE", requires = "listen_tls")]
    pub tls_client_ca: Option<PathBuf>,
    /// Leave the embedded scheduler out: a cordium-scheduler elsewhere drives this node
    #[arg(long)]
    pub no_scheduler: bool,
    /// The node's configuration, YAML [default: $XDG_CONFIG_HOME/cordium/supervisor.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's binary [default: cordium-agent beside this program]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Serve as root all the same
    #[arg(long)]
    pub allow_root: bool,
}

impl ServeOptions {
    /// `--state-dir`, or where it lies by default.
    pub fn state_dir(&self) -> Option<PathBuf> {
        let home = || env_dir("HOME").map(|home| home.join(".local/share"));
        let default = || env_dir("XDG_DATA_HOME").or_else(home).map(|dir| dir.join("cordium"));
        self.state_dir.clone().or_else(default).map(|dir| absolute(&dir))
    }

    /// `--run-dir`, or where it lies by default.
    pub fn run_dir(&self) -> PathBuf {
        let fallback = || PathBuf::from(format!("/tmp/cordium-{}", rustix::process::getuid().as_raw()));
        let default = || env_dir("XDG_RUNTIME_DIR").map_or_else(fallback, |dir| dir.join("cordium"));
        absolute(&self.run_dir.clone().unwrap_or_else(default))
    }

    /// `--config`, or where it lies by default if something lies there.
    pub fn config(&self) -> Option<PathBuf> {
        let home = || env_dir("HOME").map(|home| home.join(".config"));
        let default = || {
            let dir = env_dir("XDG_CONFIG_HOME").or_else(home)?;
            Some(dir.join("cordium/supervisor.yaml")).filter(|file| file.exists())
        };
        self.config.clone().or_else(default)
    }

    /// `--name`, or the machine's name made fit.
    pub fn name(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().to_ascii_lowercase();
        let first = host.split('.').next().unwrap_or_default();
        let fit: String =
            first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
        let fit = fit.trim_matches('-').to_owned();
        if fit.is_empty() { "node".to_owned() } else { fit }
    }
}

fn env_dir(name: &str) -> Option<PathBuf> {
    // The specification of these variables says that relative paths are to be ignored.
    std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
