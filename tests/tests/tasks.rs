//! Tasks: what runs when, as whom, and what happens to tasks that do not behave.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use cordium_tests::{
    Fixture, Result, Suite, ensure, ensure_eq, json, spec::task, v1::WorkspaceState as State,
};

fn main() -> ExitCode {
    Suite::new("tasks")
        .case("each_type_runs_when_it_should", each_type_runs_when_it_should)
        .case("tasks_run_in_order", tasks_run_in_order)
        .case("identity_directory_and_environment", identity_directory_and_environment)
        .case("background_tasks_do_not_delay", background_tasks_do_not_delay)
        .case("a_task_that_forks_into_the_background", forks_into_the_background)
        .case("a_task_that_ignores_sigterm_is_killed_at_stop", ignores_sigterm)
        .case("pre_stop_that_hangs_is_bounded", pre_stop_that_hangs)
        .case("a_task_that_prints_a_gibibyte", prints_a_gibibyte)
        .case("task_output_is_in_the_log", task_output_is_in_the_log)
        .run(|| Fixture::start("tasks"))
}

async fn each_type_runs_when_it_should(f: Arc<Fixture>) -> Result<()> {
    let tasks = json!([
        task("create", "ON_CREATE", "echo x >> /workspace/create"),
        task("start", "POST_START", "echo x >> /workspace/start"),
        task("stop", "PRE_STOP", "echo x >> /workspace/stop"),
    ]);
    let w = f.run("types", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    let counts = "for f in create start stop; do cat /workspace/$f 2>/dev/null | wc -l; done | tr -d ' ' | tr '\\n' ' '";
    ensure_eq!(w.ok(counts).await?, "1 1 0");
    ensure_eq!(w.ok("stat -c %u /workspace/create").await?, w.ok("id -u").await?);
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok(counts).await?, "1 2 1");
    w.delete().await
}

async fn tasks_run_in_order(f: Arc<Fixture>) -> Result<()> {
    let tasks = json!([
        task("four", "POST_START", "echo 4 >> /workspace/order"),
        task("one", "ON_CREATE", "sleep 0.3; echo 1 >> /workspace/order"),
        task("two", "ON_CREATE", "echo 2 >> /workspace/order"),
        task("five", "POST_START", "echo 5 >> /workspace/order"),
        task("three", "ON_CREATE", "echo 3 >> /workspace/order"),
    ]);
    let w = f.run("order", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    ensure_eq!(w.ok("tr '\\n' ' ' < /workspace/order").await?, "1 2 3 4 5");
    w.delete().await
}

async fn identity_directory_and_environment(f: Arc<Fixture>) -> Result<()> {
    let tasks = json!([
        {"name": "user", "type": "POST_START", "run": "id -u > /workspace/user; pwd > /workspace/home; echo $HOME >> /workspace/home"},
        {"name": "root", "type": "POST_START", "runAsRoot": true, "run": "id -u > /workspace/root"},
        {"name": "dir", "type": "POST_START", "workingDir": "/usr/bin", "run": "pwd > /workspace/dir"},
        {"name": "env", "type": "POST_START", "envVars": [{"key": "MINE", "value": "only here"}], "run": "echo $MINE > /workspace/env"},
    ]);
    let w = f.run("ident", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    ensure!(w.ok("cat /workspace/user").await? != "0", "a task of the user's ran as root");
    ensure_eq!(w.ok("cat /workspace/root").await?, "0");
    ensure_eq!(w.ok("cat /workspace/dir").await?, "/usr/bin");
    ensure_eq!(w.ok("cat /workspace/env").await?, "only here");
    ensure_eq!(w.ok("uniq /workspace/home | wc -l").await?, "1");
    ensure_eq!(w.ok("echo \"[$MINE]\"").await?, "[]");
    w.delete().await
}

async fn background_tasks_do_not_delay(f: Arc<Fixture>) -> Result<()> {
    let tasks = json!([
        {"name": "long", "type": "POST_START", "isBackground": true, "run": "exec sleep 3600"},
        {"name": "failing", "type": "POST_START", "isBackground": true, "onFailure": "ON_FAILURE_ABORT", "run": "exit 9"},
    ]);
    let w = f.run("bg", &f.small(json!({"runtime": {"tasks": tasks}}))).await?;
    ensure_eq!(w.status().await?.state(), State::Running);
    w.ok("ps | grep 'sleep 360[0]'").await?;
    w.delete().await
}

async fn forks_into_the_background(f: Arc<Fixture>) -> Result<()> {
    // The grandchild keeps the task's output open; the task is over when its shell is.
    let fork = task("fork", "POST_START", "sh -c 'sleep 3599 & exit 0'; echo done");
    let started = Instant::now();
    let w = f.run("fork", &f.small(json!({"runtime": {"tasks": [fork]}}))).await?;
    ensure!(started.elapsed() < Duration::from_secs(60), "the start waited for a grandchild");
    w.stop().await?;
    ensure!(
        !cordium_tests::process::processes()
            .into_iter()
            .any(|pid| { cordium_tests::process::command_line(pid).as_deref() == Some("sleep 3599") }),
        "a grandchild outlives the workspace"
    );
    w.delete().await
}

async fn ignores_sigterm(f: Arc<Fixture>) -> Result<()> {
    let stubborn = json!({"name": "stubborn", "type": "POST_START", "isBackground": true,
        "run": "trap '' TERM INT HUP; while :; do sleep 3598; done"});
    let w = f.run("stub", &f.small(json!({"runtime": {"tasks": [stubborn]}}))).await?;
    let started = Instant::now();
    w.stop().await?;
    ensure!(started.elapsed() < Duration::from_secs(30), "the stop took {:?}", started.elapsed());
    w.delete().await
}

async fn pre_stop_that_hangs(f: Arc<Fixture>) -> Result<()> {
    let hang = json!({"name": "hang", "type": "PRE_STOP", "timeout": "2s", "run": "sleep 3597"});
    let w = f.run("prestop", &f.small(json!({"runtime": {"tasks": [hang]}}))).await?;
    let started = Instant::now();
    w.stop().await?;
    ensure!(started.elapsed() < Duration::from_secs(30), "the stop took {:?}", started.elapsed());
    w.delete().await
}

async fn prints_a_gibibyte(f: Arc<Fixture>) -> Result<()> {
    let flood = json!({"name": "flood", "type": "POST_START", "isBackground": true, "onFailure": "ON_FAILURE_CONTINUE",
        "run": "yes 0123456789012345678901234567890123456789012345678901234567890123456789 | head -c 1073741824; touch /workspace/flooded"});
    let w = f.run("flood", &f.small(json!({"runtime": {"tasks": [flood]}}))).await?;
    ensure_eq!(w.ok("echo alive").await?, "alive");
    for _ in 0..6 {
        if w.sh("for i in $(seq 300); do [ -e /workspace/flooded ] && exit 0; sleep 0.1; done; exit 1")
            .await?
            .code()
            == 0
        {
            break;
        }
    }
    w.ok("[ -e /workspace/flooded ]").await?;
    let mut logged = 0;
    for entry in std::fs::read_dir(f.node.state().join("workspaces").join(&w.uid).join("log"))? {
        logged += entry?.metadata()?.len();
    }
    ensure!(logged < 256 << 20, "the log grew to {logged} bytes");
    let entries = w.log().await?;
    ensure!(entries.windows(2).all(|pair| pair[0].seq < pair[1].seq), "log entries are out of order");
    w.delete().await
}

async fn task_output_is_in_the_log(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("log", &f.small(json!({"runtime": {"tasks": [
        task("first", "ON_CREATE", "echo from first"), task("second", "POST_START", "echo from second >&2")]}}))).await?;
    ensure!(w.log_text(Some("first")).await?.contains("from first"), "the first task's output is missing");
    ensure!(w.log_text(Some("second")).await?.contains("from second"), "the second task's output is missing");
    w.stop().await?;
    ensure!(w.log_text(None).await?.contains("from first"), "the log of a stopped workspace is gone");
    w.delete().await
}
