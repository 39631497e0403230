//! (e) What one idle workspace keeps in memory: the proportional share of agent and keeper.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use cordium_tests::{Workspace, images, process, spec};
use serde_json::json;

use super::{
    Bench,
    table::{Row, Value},
};

/// Several, so that what they share is shared out.
const COUNT: usize = 10;

pub async fn idle(bench: &Bench) -> Result<Vec<Row>> {
    let mut workspaces = Vec::new();
    let spec = spec::with_image(
        &bench.registry.reference(images::BASE),
        json!({"limit": {"memory": {"megabytes": 64}}}),
    );
    for n in 0..COUNT {
        workspaces.push(Workspace::run(&bench.clients, &format!("idle-{n}"), &spec).await?);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut agents, mut keepers) = (Vec::new(), Vec::new());
    for pid in process::processes() {
        let Some(line) = process::command_line(pid) else { continue };
        if line.contains(" keeper")
            && process::output_of(pid).is_some_and(|file| file.starts_with(&bench.node.dir))
        {
            keepers.push(pss(pid)?);
        } else if line.ends_with("cordium-agent") && ours(bench, pid) {
            agents.push(pss(pid)?);
        }
    }
    ensure!(
        keepers.len() >= COUNT && agents.len() >= COUNT,
        "{} keepers, {} agents",
        keepers.len(),
        agents.len()
    );
    for w in workspaces {
        w.delete().await?;
    }
    let each = |sizes: &[u64]| sizes.iter().sum::<u64>() as f64 / 1024.0 / COUNT as f64;
    let row = |what: &str, number: f64, target| Row {
        what: what.to_owned(),
        ours: Value { number, unit: "MiB", rounds: COUNT },
        peers: Vec::new(),
        target,
    };
    Ok(vec![
        row(
            "(e) memory of one idle workspace of ten (PSS of agent and keeper)",
            each(&agents) + each(&keepers),
            Some(8.0),
        ),
        row("(e) of which the agent", each(&agents), None),
        row("(e) of which the keeper", each(&keepers), None),
    ])
}

/// Whether an agent descends from a keeper of this bench.
fn ours(bench: &Bench, mut pid: i32) -> bool {
    let dir = &bench.node.dir;
    for _ in 0..4 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let parent =
            status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|id| id.trim().parse().ok());
        let Some(parent) = parent else { return false };
        if process::output_of(parent).is_some_and(|file| file.starts_with(dir)) {
            return true;
        }
        pid = parent;
    }
    false
}

/// In KiB.
fn pss(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
    line.split_whitespace().next().and_then(|number| number.parse().ok()).context("Pss is no number")
}
