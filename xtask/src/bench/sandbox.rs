//! Start, exec, a hundred at once, stop and delete.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cordium_tests::{
    Workspace, images, process, spec,
    v1::{CreateRequest, WorkspaceState},
    watch::{Watch, state_of},
};
use futures::{StreamExt, stream};
use serde_json::json;

use super::{
    Bench, LIMIT,
    peers::one_line,
    samples::{Samples, repeat, time},
    table::{Row, Value},
};

type Peer = (String, Result<Value, String>, Option<f64>);

fn spec(bench: &Bench, image: &str) -> serde_json::Value {
    spec::with_image(
        &bench.registry.reference(image),
        // The peers have no CPU limit; ours has the default of two cores, which is this machine.
        json!({"limit": {"memory": {"megabytes": 64}}}),
    )
}

fn measured(samples: Result<Samples>) -> Result<Value, String> {
    samples.map(|samples| Value::from(&samples)).map_err(|error| one_line(&format!("{error:#}")))
}

/// Creates and starts a workspace in one call; returns when it is RUNNING.
async fn begin(bench: &Bench, name: &str, image: &str) -> Result<Workspace> {
    let mut all = Watch::open(&bench.clients, "").await?;
    let spec_json = spec(bench, image).to_string();
    let request = CreateRequest { name: name.to_owned(), spec_json, start: true, ..Default::default() };
    let w = Workspace::create_with(&bench.clients, request).await?;
    all.until(LIMIT, |event| {
        let ours = event.phase.as_ref().is_some_and(|phase| phase.workspace_uid == w.uid);
        ours && matches!(state_of(event), WorkspaceState::Running | WorkspaceState::Stopped)
    })
    .await?;
    Ok(w)
}

/// (a) From the request to the first command's answer, of an image that is here.
pub async fn start(bench: &Bench) -> Result<Vec<Row>> {
    begin(bench, "warm-up", images::BASE).await?.delete().await?;
    let (mut fresh, mut again) = (Samples::default(), Samples::default());
    for round in 0..bench.rounds {
        let started = Instant::now();
        let w = begin(bench, &format!("start-{round}"), images::BASE).await?;
        w.exec(&["/bin/true"]).await?;
        fresh.push(started.elapsed());
        w.stop().await?;
        let started = Instant::now();
        w.start().await?;
        w.exec(&["/bin/true"]).await?;
        again.push(started.elapsed());
        w.delete().await?;
    }
    let mut peers: Vec<Peer> = Vec::new();
    for (name, ready) in bench.peers.runtimes() {
        let limit = (*name == "crun").then_some(3.0);
        let value = ready
            .clone()
            .and_then(|()| measured(repeat(bench.rounds, |round| bench.peers.run_true(name, round))));
        peers.push((format!("{name} run /bin/true"), value, limit));
    }
    let podman =
        bench.peers.has_podman().and_then(|()| measured(repeat(bench.rounds, |_| bench.peers.podman_true())));
    peers.push(("podman run --rm /bin/true".into(), podman, Some(0.25)));
    Ok(vec![
        Row {
            what: "(a) new workspace, cached image: request to first exec's answer".into(),
            ours: Value::from(&fresh),
            peers,
            target: None,
        },
        Row {
            what: "(a) the same, started again".into(),
            ours: Value::from(&again),
            peers: Vec::new(),
            target: None,
        },
    ])
}

/// (b) A command in what already runs.
pub async fn exec(bench: &Bench) -> Result<Vec<Row>> {
    let w = begin(bench, "exec", images::BASE).await?;
    w.exec(&["/bin/true"]).await?;
    let mut ours = Samples::default();
    for _ in 0..bench.rounds * 5 {
        let started = Instant::now();
        w.exec(&["/bin/true"]).await?;
        ours.push(started.elapsed());
    }
    w.delete().await?;
    let mut peers: Vec<Peer> = Vec::new();
    for (name, ready) in bench.peers.runtimes() {
        let limit = (*name == "crun").then_some(1.0);
        let value = ready.clone().and_then(|()| {
            let sleeper = bench.peers.sleeper(name).map_err(|error| one_line(&format!("{error:#}")))?;
            measured(repeat(bench.rounds, |_| sleeper.exec_true()))
        });
        peers.push((format!("{name} exec"), value, limit));
    }
    peers.push((
        "podman exec".into(),
        bench.peers.has_podman().and_then(|()| measured(podman_exec(bench))),
        None,
    ));
    Ok(vec![Row {
        what: "(b) exec of `true`, open connection".into(),
        ours: Value::from(&ours),
        peers,
        target: None,
    }])
}

fn podman_exec(bench: &Bench) -> Result<Samples> {
    let podman = &bench.peers;
    process::run(podman.podman().args([
        "run",
        "--detach",
        "--pull=never",
        "--name",
        "sleeper",
        "localhost/bench",
        "/bin/sleep",
        "infinity",
    ]))?;
    let samples = repeat(bench.rounds, |_| {
        let mut command = podman.podman();
        command.args(["exec", "sleeper", "/bin/true"]);
        command
    });
    process::run(podman.podman().args(["rm", "--force", "--time", "0", "sleeper"]))?;
    samples
}

/// (d) A hundred at once.
pub async fn hundred(bench: &Bench) -> Result<Vec<Row>> {
    const COUNT: usize = 100;
    begin(bench, "warm-up", images::MUSL).await?.delete().await?;
    let mut all = Watch::open(&bench.clients, "").await?;
    let started = Instant::now();
    let creations = (0..COUNT).map(|n| {
        let spec_json = spec(bench, images::MUSL).to_string();
        let request =
            CreateRequest { name: format!("many-{n}"), spec_json, start: true, ..Default::default() };
        Workspace::create_with(&bench.clients, request)
    });
    let created: Vec<Result<Workspace>> = stream::iter(creations).buffer_unordered(COUNT).collect().await;
    let workspaces: Vec<Workspace> =
        created.into_iter().collect::<Result<_>>().context("creating a hundred")?;
    let (mut running, mut failed) = (0, 0);
    all.until(Duration::from_secs(120), |event| {
        let ours = event.phase.as_ref().is_some_and(|phase| phase.workspace_name.starts_with("many-"));
        match state_of(event) {
            WorkspaceState::Running if ours => running += 1,
            WorkspaceState::Stopped
                if ours && event.phase.as_ref().is_some_and(|phase| phase.failure.is_some()) =>
            {
                failed += 1
            }
            _ => {}
        }
        running + failed == COUNT
    })
    .await?;
    let took = started.elapsed().as_secs_f64();
    let deletions = workspaces.iter().map(Workspace::delete);
    let deleted: Vec<Result<()>> = stream::iter(deletions).buffer_unordered(16).collect().await;
    deleted.into_iter().collect::<Result<()>>().context("deleting a hundred")?;
    let value = |number, unit| Value { number, unit, rounds: 1 };
    Ok(vec![
        Row {
            what: "(d) 100 workspaces at once: until all run".into(),
            ours: value(took, "s"),
            peers: Vec::new(),
            target: Some(5.0),
        },
        Row {
            what: "(d) of which failed".into(),
            ours: value(failed as f64, "workspaces"),
            peers: Vec::new(),
            target: Some(0.0),
        },
    ])
}

/// (f) The end.
pub async fn stop_and_delete(bench: &Bench) -> Result<Vec<Row>> {
    let (mut stop, mut delete) = (Samples::default(), Samples::default());
    for round in 0..bench.rounds {
        let w = begin(bench, &format!("stop-{round}"), images::BASE).await?;
        let mut watch = w.watch().await?;
        watch.next(LIMIT).await?;
        let started = Instant::now();
        w.request_stop(false).await?;
        watch.stopped(LIMIT).await?;
        stop.push(started.elapsed());
        let storage = bench.node.state().join("workspaces").join(&w.uid);
        let started = Instant::now();
        w.delete().await?;
        process::until("end of the storage", LIMIT, || Ok((!storage.exists()).then_some(())))?;
        delete.push(started.elapsed());
    }
    let podman = bench.peers.has_podman().and_then(|()| measured(podman_remove(bench)));
    Ok(vec![
        Row {
            what: "(f) stop".into(),
            ours: Value::from(&stop),
            peers: vec![("podman rm --force --time 0".into(), podman, None)],
            target: None,
        },
        Row {
            what: "(f) delete, storage included".into(),
            ours: Value::from(&delete),
            peers: Vec::new(),
            target: None,
        },
    ])
}

fn podman_remove(bench: &Bench) -> Result<Samples> {
    let mut samples = Samples::default();
    for _ in 0..bench.rounds {
        let podman = &bench.peers;
        process::run(podman.podman().args([
            "run",
            "--detach",
            "--pull=never",
            "--name",
            "gone",
            "localhost/bench",
            "/bin/sleep",
            "infinity",
        ]))?;
        samples.push(time(podman.podman().args(["rm", "--force", "--time", "0", "gone"]))?);
    }
    Ok(samples)
}
