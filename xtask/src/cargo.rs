//! Calls of cargo.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use cordium_tests::paths;
use tokio::process::Command;

use crate::step::{self, Step};

/// How the programs are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    Dev,
    Release,
}

/// `cargo` as it called us.
pub fn cargo(args: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(args).current_dir(paths::repository()).env("CARGO_TERM_COLOR", "never");
    // What cargo set for us would make it build things anew.
    for (key, _) in env::vars_os() {
        if key.to_string_lossy().starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR" {
            command.env_remove(key);
        }
    }
    command
}

/// Builds all programs, and returns where they are.
pub async fn build_programs(profile: Profile) -> Result<PathBuf> {
    let mut args = vec!["build", "--workspace", "--bins", "--locked"];
    if profile == Profile::Release {
        args.push("--release");
    }
    let step = Step { name: "build the programs", limit: Duration::from_secs(45 * 60), show: false };
    let outcome = step::run(&step, &mut cargo(&args)).await?;
    ensure!(outcome.success, "the programs could not be built");
    let own = paths::built_programs()?;
    let name = if profile == Profile::Release { "release" } else { "debug" };
    Ok(own.with_file_name(name))
}
