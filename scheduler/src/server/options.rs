//! The command line.

use std::path::PathBuf;

use clap::Parser;
use cordium_scheduler::{Config, Overcommit};

/// Keeps the desired state of workspaces, places them on nodes and merges the nodes' phases into one stream.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Options {
    /// The store; made when missing.
    #[arg(long, value_name = "PATH")]
    pub db: PathBuf,
    /// The key that secrets are encrypted with; made (mode 0600) when missing.
    #[arg(long, value_name = "PATH")]
    pub key: PathBuf,
    /// Where to serve: unix:PATH (for our own user and root), or HOST:PORT (needs --tls-*).
    #[arg(long, value_name = "ADDRESS")]
    pub listen: String,

    /// A node to drive, by its name: https://HOST:PORT (needs --ca, --cert, --key-file) or unix:PATH.
    #[arg(long = "node", value_name = "NAME=ADDRESS", required = true)]
    pub nodes: Vec<String>,
    /// The authority that nodes' certificates must come from.
    #[arg(long, value_name = "PEM", requires_all = ["cert", "key_file"])]
    pub ca: Option<PathBuf>,
    /// Our certificate towards nodes.
    #[arg(long, value_name = "PEM", requires = "ca")]
    pub cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "PEM", requires = "ca")]
    pub key_file: Option<PathBuf>,

    /// Our certificate towards clients.
    #[arg(long, value_name = "PEM", requires_all = ["tls_key", "tls_client_ca"])]
    pub tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The authority that clients' certificates must come from.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// How many times over a node's CPU may be promised.
    #[arg(long, value_name = "FACTOR", default_value_t = 8.0, value_parser = factor)]
    pub cpu_overcommit: f64,
    /// How many times over a node's memory may be promised.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = factor)]
    pub memory_overcommit: f64,
    /// Workspaces that may exist.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub max_workspaces: u64,
    /// Workspaces that may be active at the same time.
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub max_active: u64,
}

impl Options {
    pub fn config(&self) -> Config {
        Config {
            overcommit: Overcommit { cpu: self.cpu_overcommit, memory: self.memory_overcommit },
            max_workspaces: self.max_workspaces,
            max_active: self.max_active,
            ..Config::new(&self.db, &self.key)
        }
    }
}

fn factor(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 => Ok(value),
        _ => Err("allowed: a number above 0, or inf".into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(more: &[&str]) -> Result<Options, clap::Error> {
        let base = ["cordium-scheduler", "--db", "d", "--key", "k", "--listen", "unix:s"];
        Options::try_parse_from(base.iter().chain(more))
    }

    #[test]
    fn flags_hold_together() {
        Options::command().debug_assert();
        assert!(parse(&[]).is_err(), "a node is needed");
        assert!(parse(&["--node", "a=unix:x"]).is_ok());
        assert!(parse(&["--node", "a=unix:x", "--ca", "ca.pem"]).is_err(), "half of mutual TLS");
        assert!(parse(&["--node", "a=unix:x", "--tls-cert", "c.pem"]).is_err());
        assert!(parse(&["--node", "a=unix:x", "--memory-overcommit", "0"]).is_err());
        let options = parse(&["--node", "a=unix:x", "--cpu-overcommit", "inf"]).unwrap();
        assert!(options.config().overcommit.cpu.is_infinite());
    }
}
