//! Restart: the supervisor goes and comes back, and running workspaces do not notice.

use std::{process::ExitCode, sync::Arc, time::Duration};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, json, process, spec::task,
    v1::WorkspaceState as State, workspace::STOP,
};
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    // The cases end the one supervisor.
    Suite::new("restart")
        .case("sigterm_leaves_workspaces_running", sigterm)
        .case("sigkill_leaves_workspaces_running", sigkill)
        .case("sigkill_during_a_start", sigkill_during_a_start)
        .case("a_keeper_killed_ends_its_workspace_only", a_keeper_killed)
        .case("a_broker_killed_comes_back", a_broker_killed)
        .one_at_a_time()
        .run(|| Fixture::start("restart"))
}

/// Ends the supervisor with a signal, starts it again, and checks that a workspace went on.
async fn survives(f: &Fixture, name: &str, signal: Signal) -> Result<()> {
    let tasks = json!([
        task("count", "POST_START", "echo x >> /workspace/count"),
        task("stop", "PRE_STOP", "echo x >> /workspace/stop")
    ]);
    let w = f.run(name, &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    w.ok("setsid sleep 5432 >/dev/null 2>&1 & echo $! > /tmp/pid; sleep 0.2").await?;
    let before = w.status().await?;
    f.node.end(signal)?;
    ensure!(
        process::processes().iter().any(|pid| process::command_line(*pid).as_deref() == Some("sleep 5432")),
        "the workspace ended with the supervisor"
    );
    f.node.launch()?;
    let w = Workspace { clients: f.node.clients().await?, ..w };
    let mut watch = w.watch().await?;
    watch
        .until(Duration::from_secs(30), |event| cordium_tests::watch::state_of(event) == State::Running)
        .await?;
    let after = w.status().await?;
    ensure_eq!(after.run.as_ref().map(|run| &run.id), before.run.as_ref().map(|run| &run.id));
    ensure_eq!(after.successful_runs, 1);
    w.ok("kill -0 $(cat /tmp/pid)").await?;
    ensure_eq!(w.ok("wc -l < /workspace/count").await?, "1");
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("cat /workspace/count /workspace/stop | wc -l").await?, "3");
    w.delete().await
}

async fn sigterm(f: Arc<Fixture>) -> Result<()> {
    survives(&f, "term", Signal::SIGTERM).await
}

async fn sigkill(f: Arc<Fixture>) -> Result<()> {
    survives(&f, "kill", Signal::SIGKILL).await
}

async fn sigkill_during_a_start(f: Arc<Fixture>) -> Result<()> {
    let clients = f.node.clients().await?;
    let w = Workspace::create(
        &clients,
        "half",
        &f.small(json!({"runtime": {"tasks": [task("slow", "POST_START", "sleep 3")]}})),
    )
    .await?;
    let mut watch = w.watch().await?;
    w.request_start(&[]).await?;
    watch
        .until(Duration::from_secs(60), |event| cordium_tests::watch::state_of(event) == State::Preparing)
        .await?;
    f.node.end(Signal::SIGKILL)?;
    f.node.launch()?;
    let w = Workspace { clients: f.node.clients().await?, ..w };
    // Taken up where it was, or failed and told; never stuck.
    let mut watch = w.watch().await?;
    let settled = |state| matches!(state, State::Running | State::Stopped);
    let event =
        watch.until(Duration::from_secs(60), |event| settled(cordium_tests::watch::state_of(event))).await?;
    if cordium_tests::watch::state_of(&event) == State::Stopped {
        let failure = cordium_tests::watch::failure_of(&event).context("stopped without a word")?;
        ensure!(!failure.message.is_empty(), "stopped without a word");
        w.start().await?;
    }
    ensure_eq!(w.ok("echo alive").await?, "alive");
    w.delete().await
}

fn kill_processes(f: &Fixture, words: &[&str]) -> Result<usize> {
    let found: Vec<i32> = process::mentioning(&f.dir)
        .into_iter()
        .filter(|(_, line)| words.iter().all(|word| line.contains(word)))
        .map(|(pid, _)| pid)
        .collect();
    for pid in &found {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    Ok(found.len())
}

async fn a_keeper_killed(f: Arc<Fixture>) -> Result<()> {
    let clients = f.node.clients().await?;
    let (a, b) = (
        Workspace::run(&clients, "ka", &f.small(json!({}))).await?,
        Workspace::run(&clients, "kb", &f.small(json!({}))).await?,
    );
    let mut watch = a.watch().await?;
    watch.next(STOP).await?;
    let keeper = process::mentioning(&f.node.run().join("ws").join(&a.uid));
    let (pid, _) = keeper.first().with_context(|| format!("there is no keeper of {}", a.uid))?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), Signal::SIGKILL)?;
    let event = watch.stopped(STOP).await?;
    let failure = cordium_tests::watch::failure_of(&event).context("stopped without a failure")?;
    ensure!(!failure.message.is_empty(), "the failure has no message");
    ensure_eq!(b.ok("echo alive").await?, "alive");
    a.start().await?;
    a.delete().await?;
    b.delete().await
}

async fn a_broker_killed(f: Arc<Fixture>) -> Result<()> {
    let clients = f.node.clients().await?;
    ensure!(kill_processes(&f, &["broker"])? > 0, "there is no broker");
    let w =
        Workspace::run(&clients, "after", &f.base(json!({"repository": {"url": f.git.url("demo")}}))).await?;
    ensure_eq!(w.ok("cat /workspace/repo/README.md").await?, "# Demo");
    w.delete().await
}
