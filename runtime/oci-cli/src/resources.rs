//! The limits of `update`: a file, or flags, as `linux.resources`.

use std::{io::Read, path::Path};

use anyhow::{Context, Result, bail};
use cordium_runtime::container::spec::LinuxResources;
use serde_json::{Map, Value, json};

use crate::args::Update;

const MAX_FILE: u64 = 1 << 20;

/// What is to be changed.
pub fn of(args: &Update) -> Result<LinuxResources> {
    let flags = flags(args);
    match &args.resources {
        Some(_) if !flags.is_empty() => bail!("--resources: give either the file or single limits"),
        Some(path) => read(path),
        None if flags.is_empty() => bail!("nothing to update: give --resources FILE or a limit"),
        None => serde_json::from_value(Value::Object(flags)).context("the limits"),
    }
}

fn flags(args: &Update) -> Map<String, Value> {
    let mut resources = Map::new();
    let mut add = |group: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            let group = resources.entry(group).or_insert_with(|| json!({}));
            group[key] = value;
        }
    };
    add("memory", "limit", args.memory.map(Value::from));
    add("memory", "swap", args.memory_swap.map(Value::from));
    add("cpu", "quota", args.cpu_quota.map(Value::from));
    add("cpu", "period", args.cpu_period.map(Value::from));
    add("cpu", "shares", args.cpu_shares.map(Value::from));
    add("cpu", "cpus", args.cpuset_cpus.clone().map(Value::from));
    add("pids", "limit", args.pids_limit.map(Value::from));
    resources
}

fn read(path: &Path) -> Result<LinuxResources> {
    let name = || format!("reading {}", path.display());
    let reader: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).with_context(name)?),
    };
    let mut text = String::new();
    reader.take(MAX_FILE + 1).read_to_string(&mut text).with_context(name)?;
    if text.len() as u64 > MAX_FILE {
        bail!("{}: larger than {} MiB", path.display(), MAX_FILE >> 20);
    }
    serde_json::from_str(&text).with_context(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::Parser;

    fn update(words: &[&str]) -> Update {
        let all = ["cordium-oci", "update", "c"].iter().chain(words);
        match crate::args::Args::parse_from(all).command {
            crate::args::Command::Update(update) => update,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_the_resources_of_the_spec() {
        let resources =
            of(&update(&["--memory", "1048576", "--pids-limit", "-1", "--cpuset-cpus", "0-1"])).unwrap();
        assert_eq!(resources.memory().unwrap().limit(), Some(1_048_576));
        assert_eq!(resources.cpu().as_ref().unwrap().cpus().as_deref(), Some("0-1"));
        assert!(resources.pids().is_some());
    }

    #[test]
    fn nothing_and_both_are_refused() {
        assert!(of(&update(&[])).unwrap_err().to_string().contains("nothing to update"));
        assert!(of(&update(&["-r", "x", "--memory", "1"])).unwrap_err().to_string().contains("either"));
    }
}
