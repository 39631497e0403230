//! (g) How long a neighbour's commands take while another workspace takes all that it can get.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cordium_tests::{Workspace, images, spec, workspace::Output};
use serde_json::{Value as Json, json};
use tokio::task::JoinHandle;

use super::{
    Bench, LIMIT,
    samples::Samples,
    table::{Row, Value},
};

/// Commands of one measurement, at least: one in a hundred is what is looked at.
const COMMANDS: usize = 500;
/// How much slower one in a hundred may become.
const TARGET: f64 = 2.0;

/// What is done next door, and what limits it.
struct Bomb {
    name: &'static str,
    script: &'static str,
    limit: Json,
}

fn bombs() -> [Bomb; 4] {
    // Each goes on by itself; those that the node ends are begun anew.
    [
        Bomb {
            name: "a fork bomb (512 processes)",
            script: "exec perl -e 'while (1) { fork }'",
            limit: json!({"pids": 512, "memory": {"megabytes": 512}}),
        },
        Bomb {
            name: "a memory bomb",
            script: "while :; do perl -e '$x = \"x\" x (1 << 30)' 2>/dev/null; done",
            limit: json!({"memory": {"megabytes": 256}}),
        },
        Bomb {
            name: "a disk filler",
            script: "while :; do dd if=/dev/zero of=/workspace/big bs=1M count=512 2>/dev/null; done",
            limit: json!({"storage": {"megabytes": 1024}, "memory": {"megabytes": 512}}),
        },
        Bomb {
            name: "an inode filler",
            script: "cd /workspace; while :; do mkdir d; cd d; i=0; while [ $i -lt 9000 ]; do : > $i; i=$((i+1)); done; cd ..; rm -r d; done",
            limit: json!({"inodes": 20000, "memory": {"megabytes": 512}}),
        },
    ]
}

pub async fn beside_bombs(bench: &Bench) -> Result<Vec<Row>> {
    let small = json!({"limit": {"memory": {"megabytes": 64}}});
    let calm = Workspace::run(&bench.clients, "calm", &spec::with_image(&image(bench), small)).await?;
    calm.exec(&["/bin/true"]).await?;
    let mut rows = Vec::new();
    for bomb in bombs() {
        // The machine's own mood changes: quiet is measured anew each time.
        let quiet = commands(bench, &calm).await?;
        let spec = spec::with_image(&image(bench), json!({"limit": bomb.limit}));
        let w = Workspace::run(&bench.clients, "bomb", &spec).await?;
        let burning = begin(&w, bomb.script);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let beside = commands(bench, &calm).await?;
        let still = w.status().await?;
        ensure!(!burning.is_finished(), "{} ended before it was measured: {still:?}", bomb.name);
        burning.abort();
        w.delete().await?;
        let value =
            |samples: &Samples| Value { number: samples.percentile(99), unit: "ms", rounds: samples.count() };
        rows.push(Row {
            what: format!("(g) p99 of a neighbour's exec beside {}", bomb.name),
            ours: value(&beside),
            peers: vec![("the same, quiet".to_owned(), Ok(value(&quiet)), Some(TARGET))],
            target: None,
        });
    }
    calm.delete().await?;
    Ok(rows)
}

fn image(bench: &Bench) -> String {
    bench.registry.reference(images::BASE)
}

fn begin(w: &Workspace, script: &'static str) -> JoinHandle<Result<Output>> {
    let w = w.clone();
    tokio::spawn(async move { tokio::time::timeout(LIMIT * 10, w.sh(script)).await? })
}

async fn commands(bench: &Bench, calm: &Workspace) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..COMMANDS.max(bench.rounds * 5) {
        let started = Instant::now();
        calm.exec(&["/bin/true"]).await?;
        samples.push(started.elapsed());
    }
    Ok(samples)
}
