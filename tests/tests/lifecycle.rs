//! Lifecycle: from STOPPED to RUNNING and back, again and again; stops that come while a start is under way.

use std::{process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Fixture, Result, Suite, ensure, ensure_eq, images, json,
    registry::{Fault, FaultyRegistry},
    spec::{task, with_image},
    v1::{StoppingReason, WatchPhasesRequest, WorkspaceState as State},
    watch::{Watch, names},
    workspace::STOP,
};

fn main() -> ExitCode {
    Suite::new("lifecycle")
        .case("running_workspace_has_a_full_status", running_workspace_has_a_full_status)
        .case("phases_come_in_order", phases_come_in_order)
        .case("stop_clears_and_remembers", stop_clears_and_remembers)
        .case("restart_keeps_files_and_history", restart_keeps_files_and_history)
        .case("delete_removes_the_storage", delete_removes_the_storage)
        .case("delete_while_running", delete_while_running)
        .case("ephemeral_leaves_nothing", ephemeral_leaves_nothing)
        .case("stop_at_once_after_the_request", stop_at_once_after_the_request)
        .case("stop_while_pulling", stop_while_pulling)
        .case("stop_while_cloning", stop_while_cloning)
        .case("stop_while_tasks_run", stop_while_tasks_run)
        .case("phases_resume_from_a_revision", phases_resume_from_a_revision)
        .run(|| Fixture::start("lifecycle"))
}

async fn running_workspace_has_a_full_status(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("l1", &f.small(json!({}))).await?;
    let status = w.status().await?;
    ensure_eq!(status.state(), State::Running);
    ensure!(!status.node.is_empty(), "the node is not named");
    ensure!(!status.hostname.is_empty(), "there is no host name");
    ensure!(
        status.last_initialized_at.is_some() && status.last_running_at.is_some(),
        "times are missing: {status:?}"
    );
    ensure_eq!(status.successful_runs, 1);
    ensure_eq!(status.failure, None);
    let run = status.run.context("there is no run")?;
    ensure!(!run.id.is_empty() && run.stopped_at.is_none(), "{run:?}");
    ensure_eq!(w.ok("echo hello").await?, "hello");
    ensure_eq!(w.ok("echo kept > /workspace/f && cat /workspace/f").await?, "kept");
    w.delete().await
}

async fn phases_come_in_order(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("l2", &f.small(json!({}))).await?;
    let watch = w.start().await?;
    watch.assert_order()?;
    ensure!(watch.seen.contains(&State::Initializing), "no start-up state in {}", names(&watch.seen));
    ensure!(watch.seen.contains(&State::StartingRuntime), "no STARTING_RUNTIME in {}", names(&watch.seen));
    ensure_eq!(watch.seen.last(), Some(&State::Running));
    ensure_eq!(watch.out_of_order, 0);
    let status = w.status().await?;
    ensure!(status.last_state() != State::Unknown, "lastState is unknown");
    let key = |at: &Option<prost_types::Timestamp>| at.as_ref().map(|at| (at.seconds, at.nanos));
    let times = [&status.last_initialized_at, &status.last_running_at, &status.current_state_set_at].map(key);
    ensure!(times.iter().all(Option::is_some) && times.is_sorted(), "times are not in order: {times:?}");
    w.delete().await
}

async fn stop_clears_and_remembers(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("l7", &f.small(json!({}))).await?;
    let watch = w.stop().await?;
    let shutdown = watch.seen.iter().position(|state| *state == State::Running).map_or(0, |at| at);
    Watch::assert_order(&watch)?;
    let asked = |state: &State| matches!(state, State::StoppingRequest | State::Stopping);
    ensure!(watch.seen[shutdown..].iter().any(asked), "no stopping state in {}", names(&watch.seen));
    let status = w.status().await?;
    ensure_eq!(status.state(), State::Stopped);
    ensure!(status.hostname.is_empty(), "the host name stays: {}", status.hostname);
    ensure!(status.last_stopped_at.is_some() && status.total_last_runs_duration.is_some(), "{status:?}");
    ensure_eq!(status.last_stopping_reason(), StoppingReason::Api);
    ensure!(f.storage_of(&w).is_dir(), "the storage of a stopped workspace is gone");
    ensure!(w.exec(&["true"]).await.is_err(), "a command ran in a stopped workspace");
    w.delete().await
}

async fn restart_keeps_files_and_history(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("l9", &f.small(json!({}))).await?;
    let first = w.status().await?.run.context("there is no run")?.id;
    w.ok("echo kept > /workspace/f").await?;
    w.stop().await?;
    w.start().await?;
    let status = w.status().await?;
    ensure_eq!(status.successful_runs, 2);
    ensure_eq!(status.last_runs.len(), 1);
    ensure!(status.last_runs[0].stopped_at.is_some(), "the run before has no end");
    ensure_eq!(status.last_runs[0].id, first);
    ensure!(status.run.is_some_and(|run| run.id != first), "the run's id is that of the run before");
    ensure_eq!(w.ok("cat /workspace/f").await?, "kept");
    w.delete().await
}

async fn delete_removes_the_storage(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("l10", &f.small(json!({}))).await?;
    w.stop().await?;
    ensure!(f.storage_of(&w).is_dir(), "there is no storage at {}", f.storage_of(&w).display());
    w.delete().await?;
    gone(&f, &w)?;
    ensure!(w.get().await.is_err(), "a deleted workspace is still there");
    Ok(())
}

async fn delete_while_running(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("l11b", &f.small(json!({}))).await?;
    w.delete().await?;
    gone(&f, &w)
}

/// Deletion is accepted first and carried out by the node a moment later.
fn gone(f: &Fixture, w: &cordium_tests::Workspace) -> Result<()> {
    let dir = f.storage_of(w);
    cordium_tests::process::until("end of the storage", Duration::from_secs(20), || {
        Ok((!dir.exists()).then_some(()))
    })
}

async fn ephemeral_leaves_nothing(f: Arc<Fixture>) -> Result<()> {
    let count = task("count", "ON_CREATE", "echo created >> /workspace/created");
    let w = f.run("l11", &f.small(json!({"isEphemeral": true, "runtime": {"tasks": [count]}}))).await?;
    w.ok("echo x > /workspace/f; echo x > ~/f").await?;
    w.stop().await?;
    ensure!(!f.storage_of(&w).join("volume").exists(), "ephemeral storage outlives the run");
    w.start().await?;
    ensure_eq!(w.ok("ls /workspace/f ~/f 2>/dev/null | wc -l").await?, "0");
    ensure_eq!(w.ok("cat /workspace/created").await?, "created");
    w.delete().await
}

async fn stop_at_once_after_the_request(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("l12a", &f.small(json!({}))).await?;
    let mut watch = w.watch().await?;
    w.request_start(&[]).await?;
    w.request_stop(false).await?;
    watch.stopped(STOP).await?;
    never_ran(&w, &watch).await?;
    w.start().await?;
    w.delete().await
}

async fn stop_while_pulling(f: Arc<Fixture>) -> Result<()> {
    let layout =
        images::all()?.into_iter().find(|image| image.name == images::SCRATCH).context("no image")?.layout;
    let silent = FaultyRegistry::start(&layout, Fault::Silence)?;
    let w = f.create("l12b", &with_image(&silent.reference("silent:latest"), json!({}))).await?;
    stop_in(&w, State::PullingImage).await?;
    w.delete().await
}

async fn stop_while_cloning(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("l12c", &f.base(json!({"repository": {"url": f.git.url("hang")}}))).await?;
    stop_in(&w, State::Preparing).await?;
    w.delete().await
}

async fn stop_while_tasks_run(f: Arc<Fixture>) -> Result<()> {
    let long = task("long", "POST_START", "sleep 600");
    let w = f.create("l12d", &f.small(json!({"runtime": {"tasks": [long]}}))).await?;
    stop_in(&w, State::Preparing).await?;
    w.delete().await
}

/// Starts, waits for a state, stops there, and checks that RUNNING was never reached.
async fn stop_in(w: &cordium_tests::Workspace, state: State) -> Result<()> {
    let mut watch = w.watch().await?;
    w.request_start(&[]).await?;
    let limit = Duration::from_secs(60);
    watch.until(limit, |event| cordium_tests::watch::state_of(event) == state).await?;
    w.request_stop(false).await?;
    watch.stopped(STOP).await?;
    never_ran(w, &watch).await
}

async fn never_ran(w: &cordium_tests::Workspace, watch: &Watch) -> Result<()> {
    ensure!(!watch.seen.contains(&State::Running), "RUNNING was reached: {}", names(&watch.seen));
    watch.assert_order()?;
    let status = w.status().await?;
    ensure_eq!(status.successful_runs, 0);
    ensure_eq!(status.last_stopping_reason(), StoppingReason::Api);
    ensure!(status.hostname.is_empty(), "the host name stays");
    Ok(())
}

async fn phases_resume_from_a_revision(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("resume", &f.small(json!({}))).await?;
    w.stop().await?;
    let mut node = f.clients.node.clone();
    let mut all = node.watch_phases(WatchPhasesRequest { after_revision: 1 }).await?.into_inner();
    let mut revisions = Vec::new();
    while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_secs(2), all.message()).await {
        ensure!(!event.snapshot, "revision 1 is out of the journal: {event:?}");
        revisions.push(event.revision);
    }
    ensure!(revisions.len() > 5, "only {revisions:?}");
    let steps: Vec<u64> = (revisions[0]..).take(revisions.len()).collect();
    ensure_eq!(revisions, steps);
    let middle = revisions[revisions.len() / 2];
    let mut rest = node.watch_phases(WatchPhasesRequest { after_revision: middle }).await?.into_inner();
    let next =
        tokio::time::timeout(Duration::from_secs(5), rest.message()).await??.context("the stream ended")?;
    ensure_eq!(next.revision, middle + 1);
    w.delete().await
}
