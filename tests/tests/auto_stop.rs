//! AutoStop: a workspace that is done stops by itself.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, ensure, ensure_eq, json,
    spec::task,
    v1::{StoppingReason, WorkspaceState as State},
    watch::names,
};

fn main() -> ExitCode {
    Suite::new("auto_stop")
        .case("stops_by_itself_when_all_is_done", stops_by_itself)
        .case("runs_again_and_stops_again", runs_again)
        .run(|| Fixture::start("auto_stop"))
}

async fn stops_by_itself(f: Arc<Fixture>) -> Result<()> {
    let runtime = json!({"autoStop": true, "tasks": [task("job", "POST_START", "echo x >> /workspace/job")]});
    let w = f.create("auto", &f.small(json!({"runtime": runtime}))).await?;
    let (watch, workspace) = w.start_to_end().await?;
    watch.assert_order()?;
    ensure!(watch.seen.contains(&State::Running), "RUNNING was not reached: {}", names(&watch.seen));
    let status = workspace.status.context("there is no status")?;
    ensure_eq!((status.successful_runs, &status.failure), (1, &None));
    ensure!(status.last_stopping_reason() != StoppingReason::Api, "the reason is that somebody asked for it");
    let run = status.run.or_else(|| status.last_runs.first().cloned()).context("there is no run")?;
    ensure!(run.stopped_at.is_some(), "the run has no end");
    w.delete().await
}

async fn runs_again(f: Arc<Fixture>) -> Result<()> {
    let runtime = json!({"autoStop": true, "tasks": [task("job", "POST_START", "echo ran >&2; echo x >> /workspace/job; wc -l < /workspace/job")]});
    let w = f.create("again", &f.small(json!({"runtime": runtime}))).await?;
    w.start_to_end().await?;
    let (_, workspace) = w.start_to_end().await?;
    ensure_eq!(workspace.status.context("there is no status")?.successful_runs, 2);
    ensure!(w.log_text(Some("job")).await?.contains('2'), "the storage did not survive");
    w.delete().await
}
