//! Checks every dependency against `deny.toml`: licences, banned crates, sources.
//!
//! The file is cargo-deny's, so that it can be used as well; building that tool takes longer than this project on a
//! small machine, and its advisories need a database from the network (docs/decisions/0010-dependency-policy.md).

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail};
use cordium_tests::paths;
use serde::Deserialize;
use serde_json::Value;

use crate::cargo::cargo;

#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}
#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
    #[serde(default)]
    clarify: Vec<Clarification>,
}
/// Licences that one crate may have beyond those of all.
#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}
/// What a crate's licence is when its manifest does not say.
#[derive(Deserialize)]
struct Clarification {
    #[serde(rename = "crate")]
    name: String,
    expression: String,
}
#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}
#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Fails with every violation, and returns the number of crates that were looked at.
pub async fn check() -> Result<usize> {
    let path = paths::repository().join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let policy: Policy = toml::from_str(&text).context("parsing deny.toml")?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo(&["metadata", "--format-version", "1", "--locked", "--filter-platform", &target]);
    let output = command.output().await.context("running cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("parsing cargo metadata")?;
    let resolved: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| node["id"].as_str())
        .collect();
    let packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|package| package["id"].as_str().is_some_and(|id| resolved.contains(id)))
        .collect();
    let registries: BTreeSet<&str> =
        packages.iter().filter_map(|package| package["source"].as_str()).collect();
    let mut problems: Vec<String> =
        packages.iter().flat_map(|package| violations(&policy, package)).collect();
    // cargo's own registry and no other.
    if registries.len() > 1 {
        problems.push(format!("crates come from more than one registry: {registries:?}"));
    }
    if !problems.is_empty() {
        bail!("dependencies break the policy of deny.toml:\n  {}", problems.join("\n  "));
    }
    Ok(packages.len())
}

fn violations(policy: &Policy, package: &Value) -> Vec<String> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let name = format!("{} {}", text("name"), text("version"));
    let mut found = Vec::new();
    if let Some(ban) = policy.bans.deny.iter().find(|ban| ban.name == text("name")) {
        found.push(format!("{name} is banned: {}", ban.reason));
    }
    let licenses = &policy.licenses;
    let clarified = licenses.clarify.iter().find(|clarified| clarified.name == text("name"));
    let license = clarified
        .filter(|_| text("license").is_empty())
        .map_or(text("license"), |clarified| &clarified.expression);
    let exceptions = licenses.exceptions.iter().filter(|exception| exception.name == text("name"));
    let allow = exceptions.flat_map(|exception| &exception.allow).chain(&licenses.allow).cloned().collect();
    if !allowed(license, &allow) {
        found.push(format!("{name} has the licence \"{license}\", which is not allowed"));
    }
    if let Some(source) = package["source"].as_str().filter(|source| !is_registry(source)) {
        found.push(format!("{name} comes from {source}, not from a registry"));
    }
    found
}

fn is_registry(source: &str) -> bool {
    ["registry+", "sparse+"].iter().any(|prefix| source.starts_with(prefix))
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is an old way to write OR; OR binds less
/// than AND.
fn allowed(expression: &str, allow: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let met = any_of(&mut tokens, allow);
    met && tokens.peek().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = all_of(tokens, allow);
    while tokens.next_if(|token| *token == "OR").is_some() {
        met |= all_of(tokens, allow);
    }
    met
}

fn all_of(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allow);
    while tokens.next_if(|token| *token == "AND").is_some() {
        met &= one(tokens, allow);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allow: &BTreeSet<String>) -> bool {
    match tokens.next() {
        Some("(") => {
            let met = any_of(tokens, allow);
            tokens.next_if(|token| *token == ")").is_some() && met
        }
        Some(license) => {
            let exception = tokens.next_if(|token| *token == "WITH").and_then(|_| tokens.next());
            let full = exception.map_or_else(|| license.to_owned(), |name| format!("{license} WITH {name}"));
            allow.contains(&full)
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_repository_keeps_to_it() {
        if let Err(problems) = check().await {
            panic!("{problems:#}");
        }
    }

    #[test]
    fn exceptions_and_clarifications_are_for_one_crate_only() {
        let policy = r#"
            [licenses]
            allow = ["MIT"]
            exceptions = [{ allow = ["MPL-2.0"], crate = "one" }]
            clarify = [{ crate = "two", expression = "MIT" }]
            [bans]
            deny = []
        "#;
        let policy = toml::from_str(policy).unwrap_or_else(|error| panic!("{error}"));
        let count = |name: &str, license: &str| {
            let source = "registry+x";
            let package =
                serde_json::json!({"name": name, "version": "1", "license": license, "source": source});
            violations(&policy, &package).len()
        };
        assert_eq!([count("one", "MPL-2.0"), count("two", ""), count("three", "MIT")], [0, 0, 0]);
        assert_eq!([count("two", "MPL-2.0"), count("one", ""), count("two", "GPL-3.0")], [1, 1, 1]);
    }

    fn met(expression: &str) -> bool {
        let allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        allowed(expression, &BTreeSet::from(allow))
    }

    #[test]
    fn evaluates_licence_expressions() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "(MIT OR GPL-3.0) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "GPL-3.0 OR MIT AND Apache-2.0",
        ] {
            assert!(met(good), "{good}");
        }
        for bad in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT WITH Unknown",
            "(MIT",
            "MIT MIT",
            "(GPL-3.0 OR MIT) AND GPL-2.0",
        ] {
            assert!(!met(bad), "{bad}");
        }
    }
}
