//! The Lifecycle cases over gRPC, with one node.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, Scheduler, memory, state_of};
use cordium_proto::{
    HINT_KEY,
    v1::{
        DeleteResourceRequest, Failure, Kind, LogsRequest, StartWorkspaceRequest, StoppingReason,
        WorkspaceState as S, failure,
    },
};
use tonic::Code;

struct World {
    scheduler: Scheduler,
    node: FakeNode,
    _up: common::Up,
    _dir: tempfile::TempDir,
}

async fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 16_000);
    let up = node.up();
    let scheduler = Scheduler::up(dir.path(), &[&node]).await;
    scheduler.reachable("n1", true).await;
    World { scheduler, node, _up: up, _dir: dir }
}

fn deletion(name: &str) -> DeleteResourceRequest {
    DeleteResourceRequest { kind: Kind::Workspace.into(), r#ref: name.into(), ..Default::default() }
}

#[tokio::test]
async fn l1_to_l10_start_stop_restart_delete() {
    let w = world().await;
    let made = w.scheduler.create("web", &memory(512)).await;
    let uid = made.metadata.unwrap().uid;
    let status = made.status.unwrap();
    assert_eq!(status.state(), S::Stopped);
    assert_eq!((status.node.as_str(), status.hostname.as_str()), ("", ""));
    assert_eq!((status.space.as_str(), status.template.as_str()), ("default", "default"));
    assert_eq!(status.limit.unwrap().memory_mib, 512);
    assert_eq!(status.limit.unwrap().storage_mib, 20_000, "limits are filled in");

    let mut watch = w.scheduler.watch_ref(0, "web").await;
    let started = w.scheduler.start("web").await.unwrap().status.unwrap();
    assert!(started.run.is_some());
    let running = w.scheduler.until_state("web", S::Running).await;
    assert_eq!((running.node.as_str(), running.hostname.as_str()), ("n1", "web.cordium.local"));
    assert_eq!((running.successful_runs, &running.failure), (1, &None));
    assert!(running.last_initialized_at.is_some() && running.last_running_at.is_some());
    // Asked of the node at that moment, and not kept.
    assert_eq!(running.usage.map(|usage| usage.pids), Some(7));
    let first_run = running.run.unwrap();
    assert_eq!(first_run.stopped_at, None);

    let error = w.scheduler.start("web").await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.metadata().get(HINT_KEY).unwrap(), "cordium stop web");

    w.scheduler.stop("web").await.unwrap();
    let stopped = w.scheduler.until_state("web", S::Stopped).await;
    assert_eq!((stopped.hostname.as_str(), stopped.node.as_str()), ("", "n1"));
    assert_eq!(stopped.last_stopping_reason(), StoppingReason::Api);
    assert!(stopped.last_stopped_at.is_some() && stopped.total_last_runs_duration.is_some());
    assert!(stopped.run.unwrap().stopped_at.is_some());
    let error = w.scheduler.stop("web").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("stopped already"), "{}", error.message());

    let seen = watch.until(|e| state_of(e) == Some(S::Stopped) && !e.phase.as_ref().unwrap().snapshot).await;
    let states: Vec<_> = seen.iter().filter_map(state_of).skip(1).collect();
    let expected = [
        S::InitRequest,
        S::Initializing,
        S::PullingImage,
        S::StartingRuntime,
        S::Preparing,
        S::Running,
        S::StoppingRequest,
        S::Stopping,
        S::Stopped,
    ];
    assert_eq!(states, expected);
    let times: Vec<_> = seen
        .iter()
        .map(|e| e.workspace.as_ref().unwrap().status.as_ref().unwrap().current_state_set_at)
        .collect();
    assert!(times.is_sorted_by_key(|t| t.map(|t| (t.seconds, t.nanos))));

    w.scheduler.start("web").await.unwrap();
    let again = w.scheduler.until_state("web", S::Running).await;
    assert_eq!((again.successful_runs, again.last_runs.len()), (2, 1));
    assert_eq!(again.last_runs[0].id, first_run.id);
    assert!(again.last_runs[0].stopped_at.is_some());
    assert_ne!(again.run.unwrap().id, first_run.id);

    w.scheduler.control().delete(deletion("web")).await.unwrap();
    assert_eq!(w.node.with(|s| s.deleted.clone()), [uid]);
    let error = w.scheduler.control().delete(deletion("web")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let end = watch.until(|e| e.deleted).await;
    let last_states: Vec<_> = end.iter().rev().filter_map(state_of).take(1).collect();
    assert_eq!(last_states, [S::Stopped], "the phases come before the deletion");
    assert!(watch.next().await.is_none(), "nothing more to watch");
}

#[tokio::test]
async fn l11_ephemeral_is_bound_to_no_node_once_stopped() {
    let w = world().await;
    w.scheduler.create("tmp", r#"{"isEphemeral":true}"#).await;
    w.scheduler.start("tmp").await.unwrap();
    w.scheduler.until_state("tmp", S::Running).await;
    w.scheduler.stop("tmp").await.unwrap();
    assert_eq!(w.scheduler.until_state("tmp", S::Stopped).await.node, "");
}

#[tokio::test]
async fn a_stopped_ephemeral_one_keeps_its_log_and_is_deleted_on_its_node() {
    let w = world().await;
    let uid = w.scheduler.create("tmp", r#"{"isEphemeral":true}"#).await.metadata.unwrap().uid;
    w.scheduler.start("tmp").await.unwrap();
    w.scheduler.until_state("tmp", S::Running).await;
    w.scheduler.stop("tmp").await.unwrap();
    w.scheduler.until_state("tmp", S::Stopped).await;
    let request = LogsRequest { workspace: "tmp".into(), ..Default::default() };
    let mut logs = w.scheduler.session().logs(request).await.unwrap().into_inner();
    assert!(logs.message().await.unwrap().is_some());
    w.scheduler.control().delete(deletion("tmp")).await.unwrap();
    assert_eq!(w.node.with(|s| s.deleted.clone()), [uid]);
}

#[tokio::test]
async fn l12_stop_while_starting() {
    let w = world().await;
    w.node.with(|s| s.until = Some(S::PullingImage));
    w.scheduler.create("web", "{}").await;
    let mut watch = w.scheduler.watch_ref(0, "web").await;
    w.scheduler.start("web").await.unwrap();
    w.scheduler.stop("web").await.unwrap();
    let status = w.scheduler.until_state("web", S::Stopped).await;
    assert_eq!((status.successful_runs, status.hostname.as_str()), (0, ""));
    assert_eq!(status.last_stopping_reason(), StoppingReason::Api);
    let seen = watch.until(|e| state_of(e) == Some(S::Stopped) && !e.phase.as_ref().unwrap().snapshot).await;
    assert!(seen.iter().all(|e| state_of(e) != Some(S::Running)));
}

#[tokio::test]
async fn a_failed_run_can_be_mended_and_started_again() {
    let w = world().await;
    w.node.with(|s| s.until = Some(S::PullingImage));
    let uid = w.scheduler.create("web", "{}").await.metadata.unwrap().uid;
    w.scheduler.start("web").await.unwrap();
    let pull = failure::Type::ImagePull(failure::Unit {});
    w.node.fail(&uid, Failure { message: "no such image".into(), r#type: Some(pull) });
    let failed = w.scheduler.until_state("web", S::Stopped).await;
    assert!(matches!(failed.failure.as_ref().unwrap().r#type, Some(failure::Type::ImagePull(_))));
    assert_eq!(failed.run.as_ref().unwrap().failure, failed.failure);
    assert_eq!((failed.successful_runs, failed.last_stopping_reason()), (0, StoppingReason::Error));

    w.node.with(|s| s.until = None);
    w.scheduler.start("web").await.unwrap();
    let running = w.scheduler.until_state("web", S::Running).await;
    assert_eq!((running.successful_runs, running.failure), (1, None));
}

#[tokio::test]
async fn what_the_node_refuses_is_told_and_leaves_it_stopped() {
    let w = world().await;
    w.scheduler.create("web", "{}").await;
    w.node.with(|s| s.refuse = Some(tonic::Status::resource_exhausted("disk full")));
    let request =
        StartWorkspaceRequest { r#ref: "web".into(), idempotency_key: "k".into(), ..Default::default() };
    let error = w.scheduler.control().start_workspace(request.clone()).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::ResourceExhausted, "disk full"));
    let status = w.scheduler.status("web").await;
    assert_eq!((status.state(), status.node.as_str()), (S::Stopped, ""));
    assert!(status.failure.unwrap().message.contains("disk full"));

    w.node.with(|s| s.refuse = None);
    w.scheduler.control().start_workspace(request).await.unwrap();
    w.scheduler.until_state("web", S::Running).await;
}

#[tokio::test]
async fn the_same_key_starts_once() {
    let w = world().await;
    w.scheduler.create("web", "{}").await;
    let request =
        StartWorkspaceRequest { r#ref: "web".into(), idempotency_key: "k1".into(), ..Default::default() };
    let mut clients: Vec<_> = (0..4).map(|_| w.scheduler.control()).collect();
    let answers =
        futures::future::join_all(clients.iter_mut().map(|c| c.start_workspace(request.clone()))).await;
    let runs: std::collections::BTreeSet<_> =
        answers.into_iter().map(|a| a.unwrap().into_inner().status.unwrap().run.unwrap().id).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(w.node.with(|s| s.starts.len()), 1);
    w.scheduler.until_state("web", S::Running).await;
    w.scheduler.stop("web").await.unwrap();
    w.scheduler.until_state("web", S::Stopped).await;
    w.scheduler.control().start_workspace(request).await.unwrap();
    assert_eq!(w.scheduler.status("web").await.state(), S::Stopped, "asked before");
    assert_eq!(w.node.with(|s| s.starts.len()), 1);
}

#[tokio::test]
async fn vars_and_secrets_reach_the_node_and_the_run_keeps_its_vars() {
    let w = world().await;
    let secret = cordium_proto::v1::CreateRequest {
        kind: Kind::Secret.into(),
        name: "token".into(),
        secret_data: bytes::Bytes::from_static(b"s3cret"),
        ..Default::default()
    };
    w.scheduler.control().create(secret).await.unwrap();
    let spec = r#"{"vars":[{"name":"GREETING","value":"hello"}],"runtime":{"envVars":[
        {"key":"G","value":"${{ vars.GREETING }}"},{"key":"T","fromSecret":"token"}]}}"#;
    w.scheduler.create("web", spec).await;
    let request = StartWorkspaceRequest {
        r#ref: "web".into(),
        vars: [("GREETING".to_owned(), "hi".to_owned())].into(),
        ..Default::default()
    };
    w.scheduler.control().start_workspace(request).await.unwrap();
    let status = w.scheduler.until_state("web", S::Running).await;
    assert_eq!(status.run.unwrap().vars["GREETING"], "hi");
    let mut watch = w.scheduler.watch(1).await;
    let event = watch.next().await.unwrap().workspace.unwrap().status.unwrap();
    assert_eq!(event.run.unwrap().vars["GREETING"], "hi", "in the journal too");
    let start = w.node.with(|s| s.starts[0].clone());
    assert_eq!(&start.secrets["token"][..], b"s3cret");
    assert!(start.spec_json.contains(r#""value":"hi""#), "{}", start.spec_json);
    assert!(!start.spec_json.contains("s3cret"));
}

#[tokio::test]
async fn oversized_vars_are_refused() {
    let w = world().await;
    w.scheduler.create("web", "{}").await;
    let vars = (0..100).map(|i| (format!("V{i}"), "x".repeat(1000))).collect();
    let request = StartWorkspaceRequest { r#ref: "web".into(), vars, ..Default::default() };
    let error = w.scheduler.control().start_workspace(request).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().starts_with("vars: have"), "{}", error.message());
    assert_eq!(w.scheduler.status("web").await.state(), S::Stopped);
}
