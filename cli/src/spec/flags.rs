//! The flags that describe a workspace or a template without a file.

use std::path::PathBuf;

use clap::Args;

use super::parse::{self, Port, Volume};

#[derive(Args, Debug, Default, Clone)]
#[command(next_help_heading = "Workspace options")]
pub struct SpecFlags {
    /// YAML or JSON document to begin with; flags are laid over it (`-` reads standard input)
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Image: a registry reference, oci:DIR or oci:DIR:TAG, or docker-archive:FILE
    #[arg(long, value_name = "REF", conflicts_with = "dockerfile")]
    pub image: Option<String>,
    /// Build the image from this Dockerfile (its text is sent; there is no build context)
    #[arg(long, value_name = "FILE")]
    pub dockerfile: Option<PathBuf>,
    /// Git repository to clone to /workspace/repo
    #[arg(long, value_name = "URL")]
    pub repository: Option<String>,
    /// Branch of the repository
    #[arg(short = 'b', long, value_name = "BRANCH")]
    pub branch: Option<String>,
    /// Clone depth of the repository
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub depth: Option<u32>,
    /// Commit or tag to check out
    #[arg(long, value_name = "REV")]
    pub checkout: Option<String>,
    /// Another repository, cloned to /workspace/additional-repos/NAME
    #[arg(long = "additional-repo", value_name = "NAME=URL", value_parser = parse::key_value)]
    pub additional_repos: Vec<(String, String)>,
    /// Environment variable (KEY alone takes the value from your environment)
    #[arg(short = 'e', long = "env", value_name = "KEY=VALUE", value_parser = parse::env)]
    pub env: Vec<(String, String)>,
    /// Environment variable whose value is a Secret of the space
    #[arg(long, value_name = "KEY=SECRET", value_parser = parse::key_value)]
    pub env_from_secret: Vec<(String, String)>,
    /// Variable for ${{ vars.NAME }}
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse::key_value)]
    pub vars: Vec<(String, String)>,
    /// CPU limit: cores (2, 0.5) or thousandths of a core (1500m)
    #[arg(long, value_name = "CORES", value_parser = parse::cpu)]
    pub cpu: Option<u64>,
    /// Memory limit in MiB, or with M, G, T
    #[arg(long, value_name = "SIZE", value_parser = parse::mebibytes)]
    pub memory: Option<u64>,
    /// Storage limit in MiB, or with M, G, T
    #[arg(long, value_name = "SIZE", value_parser = parse::mebibytes)]
    pub storage: Option<u64>,
    /// Port of an application in the workspace
    #[arg(long = "port", value_name = "[NAME:]PORT[:default]", value_parser = parse::port)]
    pub ports: Vec<Port>,
    /// Volume to mount at an absolute path; `:ro` makes it read-only
    #[arg(long = "volume", value_name = "NAME:PATH[:ro]", value_parser = parse::volume)]
    pub volumes: Vec<Volume>,
    /// Stop by itself when all tasks are done
    #[arg(long)]
    pub auto_stop: bool,
    /// Keep nothing when it stops
    #[arg(long)]
    pub ephemeral: bool,
}

impl SpecFlags {
    /// Whether any flag says something about the spec (`--var` apart, which `run` gives to the run).
    pub fn describe_something(&self) -> bool {
        self.file.is_some()
            || self.image.is_some()
            || self.dockerfile.is_some()
            || self.repository.is_some()
            || self.branch.is_some()
            || self.depth.is_some()
            || self.checkout.is_some()
            || self.cpu.is_some()
            || self.memory.is_some()
            || self.storage.is_some()
            || self.auto_stop
            || self.ephemeral
            || !(self.additional_repos.is_empty()
                && self.env.is_empty()
                && self.env_from_secret.is_empty()
                && self.ports.is_empty()
                && self.volumes.is_empty())
    }
}
