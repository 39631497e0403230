//! Calls of cargo.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use cordium_tests::paths;
use serde_json::Value;
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

/// Builds all programs, and returns where they are. Those in `CORDIUM_BIN_DIR` are taken as they are.
pub async fn build_programs(profile: Profile) -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CORDIUM_BIN_DIR") {
        return Ok(dir.into());
    }
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

/// Builds test targets, and returns the executable of each.
pub async fn build_tests(targets: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut args = vec!["test", "--workspace", "--locked", "--no-run"];
    for target in targets {
        args.extend(["--test", target]);
    }
    let step = Step { name: "build the test targets", limit: Duration::from_secs(45 * 60), show: false };
    let outcome = step::run(&step, cargo(&args).arg("--message-format=json-render-diagnostics")).await?;
    ensure!(outcome.success, "the test targets could not be built");
    let said = std::fs::read_to_string(&outcome.log)
        .with_context(|| format!("reading {}", outcome.log.display()))?;
    let built = executables(&said);
    targets
        .iter()
        .map(|target| {
            let path = built.iter().find(|(name, _)| name == target).map(|(_, path)| path.clone());
            Ok((target.clone(), path.with_context(|| format!("cargo built no {target}"))?))
        })
        .collect()
}

/// The test executables that cargo's messages name, one message a line.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, message["executable"].as_str()?.into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_executables_are_found_among_cargos_messages() {
        let said = r#"   Compiling x
{"reason":"compiler-artifact","target":{"name":"lib"},"profile":{"test":false},"executable":null}
{"reason":"compiler-artifact","target":{"name":"e2e_a"},"profile":{"test":true},"executable":"/t/e2e_a-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executables(said), [("e2e_a".to_owned(), PathBuf::from("/t/e2e_a-1"))]);
    }
}
