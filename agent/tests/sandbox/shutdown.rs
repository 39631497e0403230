//! The end of a run.

use std::time::{Duration, Instant};

use cordium_proto::v1::{LogsRequest, PrepareRequest, ShutdownRequest, Task, TaskType};

use crate::harness::{Image, Sandbox, is_root, request, sh, task};

#[tokio::test(flavor = "multi_thread")]
async fn pre_stop_runs_once_and_everything_ends() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let tasks = vec![
        task("bye", TaskType::PreStop, "echo bye >> /workspace/bye"),
        task("bad", TaskType::PreStop, "exit 2"),
        Task {
            background: true,
            ..task("server", TaskType::PostStart, "trap '' TERM HUP; while :; do sleep 1; done")
        },
    ];
    sandbox.prepare(PrepareRequest { tasks, ..request() }).await;
    sandbox.wait_running().await;
    let mut follower = sandbox
        .session()
        .logs(LogsRequest { follow: true, ..LogsRequest::default() })
        .await
        .unwrap()
        .into_inner();
    let begun = Instant::now();
    let request = ShutdownRequest { grace_ms: 500, ..ShutdownRequest::default() };
    let (first, second) = tokio::join!(sandbox.shutdown(request), sandbox.shutdown(request));
    assert_eq!(first, ["task `bad` failed with exit code 2"]);
    assert_eq!(first, second);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(std::fs::read_to_string(sandbox.root.join("workspace/bye")).unwrap(), "bye\n");
    let mut text = String::new();
    while let Some(entry) = follower.message().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&entry.data));
    }
    assert!(text.ends_with("stopped\n"), "followers end with the run: {text}");
    assert!(sandbox.is_alive().await, "the agent stays to answer");
    let late = cordium_proto::v1::CreateTerminalRequest::default();
    assert_eq!(
        sandbox.session().create_terminal(late).await.unwrap_err().code(),
        tonic::Code::FailedPrecondition
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_starting_it_does_not_wait_and_runs_no_pre_stop() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let tasks = vec![
        task("long", TaskType::OnCreate, "sleep 1000"),
        task("bye", TaskType::PreStop, "echo bye >> /workspace/bye"),
    ];
    sandbox.prepare(PrepareRequest { tasks, ..request() }).await;
    while sandbox.root_sh("pidof sleep").await.code != 0 {}
    let begun = Instant::now();
    assert!(sandbox.shutdown(ShutdownRequest::default()).await.is_empty());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!sandbox.root.join("workspace/bye").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn pre_stop_has_a_budget() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new(Image::Busybox).await;
    let tasks = vec![
        task("long", TaskType::PreStop, "sleep 1000"),
        task("never", TaskType::PreStop, "echo never > /workspace/never"),
    ];
    sandbox.prepare(PrepareRequest { tasks, ..request() }).await;
    sandbox.wait_running().await;
    let warnings =
        sandbox.shutdown(ShutdownRequest { pre_stop_timeout_ms: 300, ..ShutdownRequest::default() }).await;
    assert_eq!(
        warnings,
        ["task `long` timed out", "task `never` was not run: no time was left before the stop"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_command_is_told_and_its_client_gets_the_code() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::running().await;
    let mut exec = sandbox.start_exec(sh("echo ready; exec sleep 1000")).await;
    exec.read_until("ready").await;
    sandbox.shutdown(ShutdownRequest { skip_tasks: true, ..ShutdownRequest::default() }).await;
    assert_eq!(exec.done().await.code, 143);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_from_outside_is_a_graceful_end() {
    if !is_root() {
        return;
    }
    let mut sandbox = Sandbox::new(Image::Busybox).await;
    let tasks = vec![task("bye", TaskType::PreStop, "echo bye >> /workspace/bye")];
    sandbox.prepare(PrepareRequest { tasks, ..request() }).await;
    sandbox.wait_running().await;
    let agent = nix::unistd::Pid::from_raw(sandbox.agent_pid().try_into().unwrap());
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGTERM).unwrap();
    let status = tokio::task::block_in_place(|| sandbox.wait());
    assert!(status.success(), "{status}");
    assert_eq!(std::fs::read_to_string(sandbox.root.join("workspace/bye")).unwrap(), "bye\n");
}
