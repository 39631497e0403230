//! How soon a policy that is changed while a workspace runs is in force: until a connection that it allows is made, and until one
//! that it forbids has ended. From the request to the scheduler on.

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cordium_proto::v1::SetEgressRequest;
use serde_json::{Value as Json, json};

use super::{
    ground::SERVER,
    servers::{PATIENCE, SINK},
    ways::Way,
};
use crate::bench::{
    Bench,
    samples::Samples,
    table::{Row, Value},
};

/// In milliseconds.
const TARGET: f64 = 100.0;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(1);

/// The workspace may reach the server when this begins, and when it ends.
pub async fn rows(bench: &Bench, workspace: &str, way: &Way) -> Result<Vec<Row>> {
    let (mut ends, mut begins) = (Samples::default(), Samples::default());
    for round in 0..=bench.rounds {
        let ended = until_it_ends(bench, workspace, way).await.context("forbidding what is open")?;
        let begun = until_it_begins(bench, workspace, way).await.context("allowing what was forbidden")?;
        // The first round warms up.
        if round > 0 {
            ends.push(ended);
            begins.push(begun);
        }
    }
    let row = |what: &str, samples: &Samples| Row {
        what: format!("(i) a changed policy, until {what}"),
        ours: Value::from(samples),
        peers: Vec::new(),
        target: Some(TARGET),
    };
    Ok(vec![row("a connection that it allows is made", &begins), row("one that it forbids has ended", &ends)])
}

async fn until_it_ends(bench: &Bench, workspace: &str, way: &Way) -> Result<Duration> {
    way.entry.run(|| way.greet()).context("it is not allowed to begin with")?;
    let mut open = way.entry.run(|| way.connect(SINK))?;
    let waiting = thread::spawn(move || ended(&mut open));
    let started = Instant::now();
    set(bench, workspace, &json!({"defaultAction": "DENY"})).await?;
    let ended = waiting.join().map_err(|_| anyhow!("the client panicked"))??;
    Ok(ended.saturating_duration_since(started))
}

fn ended(stream: &mut TcpStream) -> Result<Instant> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(Instant::now()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Instant::now()),
        Ok(_) => bail!("the sink said something"),
        Err(error) => Err(error).context("waiting for the end"),
    }
}

async fn until_it_begins(bench: &Bench, workspace: &str, way: &Way) -> Result<Duration> {
    ensure!(way.entry.run(|| way.greet()).is_err(), "it is allowed to begin with");
    let entry = way.entry.clone();
    let (way, stop) = (Way { entry: entry.clone(), server: way.server }, Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let trying = thread::spawn(move || {
        entry.run(|| {
            let latest = Instant::now() + PATIENCE;
            while Instant::now() < latest && !stopped.load(Ordering::Relaxed) {
                if way.greet().is_ok() {
                    return Ok(Instant::now());
                }
                thread::sleep(PAUSE);
            }
            bail!("it is not allowed in time")
        })
    });
    let rules = json!([{"name": "server", "action": "ALLOW", "cidrs": [format!("{SERVER}/32")]}]);
    let started = Instant::now();
    let done = set(bench, workspace, &json!({"defaultAction": "DENY", "rules": rules})).await;
    if done.is_err() {
        stop.store(true, Ordering::Relaxed);
    }
    let begun = trying.join().map_err(|_| anyhow!("the client panicked"))?;
    done?;
    Ok(begun?.saturating_duration_since(started))
}

async fn set(bench: &Bench, workspace: &str, egress: &Json) -> Result<()> {
    let request = SetEgressRequest {
        r#ref: workspace.to_owned(),
        space: String::new(),
        egress_json: egress.to_string(),
    };
    let answer = bench.clients.control.clone().set_egress(request).await?.into_inner();
    ensure!(answer.in_force, "the policy is not in force: {:?}", answer.warnings);
    Ok(())
}
