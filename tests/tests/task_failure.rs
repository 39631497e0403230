//! TaskFailure: a failing task ends the start, or does not, as its spec says; and always says why.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cordium_tests::{
    Context, Fixture, Result, Suite, ensure, ensure_eq, json,
    spec::task,
    v1::{Failure, StoppingReason, WorkspaceState as State, failure::Type},
};
use serde_json::Value;

fn main() -> ExitCode {
    Suite::new("task_failure")
        .case("exit_13_aborts_the_start", exit_13_aborts_the_start)
        .case("a_killed_task_aborts_the_start", a_killed_task_aborts_the_start)
        .case("a_task_that_takes_too_long_aborts_the_start", too_long)
        .case("failures_are_passed_over_unless_they_abort", failures_are_passed_over)
        .case("the_same_workspace_starts_once_mended", starts_once_mended)
        .case("other_workspaces_do_not_notice", others_do_not_notice)
        .run(|| Fixture::start("task_failure"))
}

fn aborting(run: &str) -> Value {
    let mut task = task("bad", "POST_START", run);
    task["onFailure"] = json!("ON_FAILURE_ABORT");
    task
}

/// Runs a workspace with a bad task to its end, and returns its failure.
async fn fail(f: &Fixture, name: &str, bad: Value) -> Result<(cordium_tests::Workspace, Failure)> {
    let w = f.create(name, &f.small(json!({"runtime": {"tasks": [bad]}}))).await?;
    let (watch, workspace) = w.start_to_end().await?;
    ensure!(!watch.seen.contains(&State::Running), "RUNNING was reached");
    let status = workspace.status.context("there is no status")?;
    ensure_eq!(status.state(), State::Stopped);
    ensure_eq!(status.successful_runs, 0);
    ensure_eq!(status.last_stopping_reason(), StoppingReason::Error);
    Ok((w, status.failure.context("there is no failure")?))
}

fn exit_code(failure: &Failure) -> Result<i32> {
    match &failure.r#type {
        Some(Type::Task(task)) if task.name == "bad" => Ok(task.exit_code),
        other => anyhow::bail!("the failure is {other:?}: {}", failure.message),
    }
}

async fn exit_13_aborts_the_start(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) = fail(&f, "exit13", aborting("echo the last words >&2; exit 13")).await?;
    ensure_eq!(exit_code(&failure)?, 13);
    ensure!(failure.message.contains("bad") && failure.message.contains("13"), "{}", failure.message);
    ensure!(
        failure.message.contains("the last words"),
        "the output is not in the message: {}",
        failure.message
    );
    w.delete().await
}

async fn a_killed_task_aborts_the_start(f: Arc<Fixture>) -> Result<()> {
    let (w, failure) = fail(&f, "killed", aborting("kill -9 $$")).await?;
    ensure_eq!(exit_code(&failure)?, -1);
    w.delete().await
}

async fn too_long(f: Arc<Fixture>) -> Result<()> {
    let mut bad = aborting("trap '' TERM; sleep 3596");
    bad["timeout"] = json!("1s");
    let started = Instant::now();
    let (w, failure) = fail(&f, "toolong", bad).await?;
    ensure!(started.elapsed() < Duration::from_secs(40), "it took {:?}", started.elapsed());
    ensure!(failure.message.contains("1s") || failure.message.contains("time"), "{}", failure.message);
    w.delete().await
}

async fn failures_are_passed_over(f: Arc<Fixture>) -> Result<()> {
    let mut go_on = task("goes-on", "POST_START", "exit 1");
    go_on["onFailure"] = json!("ON_FAILURE_CONTINUE");
    let tasks = json!([
        go_on,
        task("unset", "POST_START", "exit 2"),
        task("later", "POST_START", "echo x > /workspace/later")
    ]);
    let w = f.run("contin", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    ensure_eq!(w.ok("cat /workspace/later").await?, "x");
    ensure_eq!(w.status().await?.failure, None);
    w.delete().await
}

async fn starts_once_mended(f: Arc<Fixture>) -> Result<()> {
    let (w, _) =
        fail(&f, "mend", aborting("[ -e /workspace/mended ] || { touch /workspace/mended; exit 13; }"))
            .await?;
    w.start().await?;
    let status = w.status().await?;
    ensure_eq!((status.successful_runs, status.failure), (1, None));
    ensure!(status.last_runs[0].failure.is_some(), "the failed run is forgotten");
    w.delete().await
}

async fn others_do_not_notice(f: Arc<Fixture>) -> Result<()> {
    let other = f.run("other", &f.small(json!({}))).await?;
    let before = other.ok("cat /proc/1/stat | cut -d' ' -f22").await?;
    let (w, _) = fail(&f, "noisy", aborting("exit 13")).await?;
    ensure_eq!(other.ok("cat /proc/1/stat | cut -d' ' -f22").await?, before);
    ensure_eq!(other.status().await?.state(), State::Running);
    w.delete().await?;
    other.delete().await
}
