//! What is left on nodes that do not answer, or that a workspace has left.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, PATIENCE, Scheduler, state_of};
use cordium_proto::{
    HINT_KEY,
    v1::{
        DeleteResourceRequest, GetRequest, Kind, StartWorkspaceRequest, StopWorkspaceRequest,
        WorkspaceState as S,
    },
};
use tonic::Code;

fn deletion(name: &str, force: bool) -> DeleteResourceRequest {
    DeleteResourceRequest { kind: Kind::Workspace.into(), r#ref: name.into(), force, ..Default::default() }
}

fn start_on(name: &str, node: &str) -> StartWorkspaceRequest {
    StartWorkspaceRequest { r#ref: name.into(), node: node.into(), ..Default::default() }
}

async fn deleted_on(node: &FakeNode, uid: &str) {
    let waiting = async {
        while !node.with(|s| s.deleted.iter().any(|gone| gone == uid)) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the node deletes it");
}

#[tokio::test]
async fn a_workspace_whose_node_is_gone_is_deleted_by_force_and_by_the_node_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    let uid = s.create("web", "{}").await.metadata.unwrap().uid;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    drop(up);
    s.reachable("a", false).await;

    let error = s.control().delete(deletion("web", false)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{}", error.message());
    let hint = error.metadata().get(HINT_KEY).unwrap().to_str().unwrap();
    assert!(hint.ends_with("cordium delete workspace web --force"), "{hint}");

    let warnings = s.control().delete(deletion("web", true)).await.unwrap().into_inner().warnings;
    assert!(warnings[0].contains("node a does not answer"), "{warnings:?}");
    let get = GetRequest { kind: Kind::Workspace.into(), r#ref: "web".into(), ..Default::default() };
    assert_eq!(s.control().get(get).await.unwrap_err().code(), Code::NotFound);

    // Remembered across the scheduler's own end.
    drop(s);
    let s = Scheduler::up(dir.path(), &[&a]).await;
    let _up = a.up();
    s.reachable("a", true).await;
    deleted_on(&a, &uid).await;
}

#[tokio::test]
async fn force_is_for_workspaces_and_does_no_harm_where_the_node_answers() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let _up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    let uid = s.create("web", "{}").await.metadata.unwrap().uid;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    let warnings = s.control().delete(deletion("web", true)).await.unwrap().into_inner().warnings;
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(a.with(|s| s.deleted.clone()), [uid]);
    let space = DeleteResourceRequest { kind: Kind::Space.into(), ..deletion("default", true) };
    assert_eq!(s.control().delete(space).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_ephemeral_one_that_goes_elsewhere_is_deleted_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 8000), FakeNode::new(dir.path(), "b", 8000));
    let _up = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    let uid = s.create("tmp", r#"{"isEphemeral":true}"#).await.metadata.unwrap().uid;
    s.control().start_workspace(start_on("tmp", "a")).await.unwrap();
    s.until_state("tmp", S::Running).await;
    s.stop("tmp").await.unwrap();
    s.until_state("tmp", S::Stopped).await;
    s.control().start_workspace(start_on("tmp", "b")).await.unwrap();
    s.until_state("tmp", S::Running).await;
    deleted_on(&a, &uid).await;
    assert_eq!(s.status("tmp").await.state(), S::Running);
    assert!(b.with(|s| s.deleted.is_empty()), "where it runs it stays");
}

#[tokio::test]
async fn watchers_hear_that_a_node_is_lost_and_that_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    s.create("web", "{}").await;
    s.create("idle", "{}").await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    let mut watch = s.watch(0).await;
    watch.until(|e| state_of(e) == Some(S::Running)).await;

    drop(up);
    let mut changed = async || {
        let event = watch.next().await.unwrap();
        assert!(event.phase.is_none() && !event.deleted, "{event:?}");
        let workspace = event.workspace.unwrap();
        assert_eq!(workspace.metadata.unwrap().name, "web");
        let status = workspace.status.unwrap();
        assert_eq!(status.state(), S::Running);
        status.warnings
    };
    let warnings = changed().await;
    assert!(warnings[0].contains("node a does not answer"), "{warnings:?}");
    let _up = a.up();
    assert!(changed().await.is_empty());
    assert!(s.status("web").await.warnings.is_empty());
}

#[tokio::test]
async fn a_run_on_a_node_that_is_gone_is_given_up_by_force_and_ended_there_when_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    let uid = s.create("web", "{}").await.metadata.unwrap().uid;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    drop(up);
    s.reachable("a", false).await;

    let stop = |force| StopWorkspaceRequest { r#ref: "web".into(), force, ..Default::default() };
    let error = s.control().stop_workspace(stop(false)).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.metadata().get(HINT_KEY).unwrap().to_str().unwrap().ends_with("cordium stop web --force"));
    s.control().stop_workspace(stop(true)).await.unwrap();
    let status = s.status("web").await;
    assert_eq!((status.state(), status.node.as_str()), (S::Stopped, "a"), "its storage is still there");

    let _up = a.up();
    s.reachable("a", true).await;
    let waiting = async {
        while a.with(|s| s.latest[&uid].state()) != S::Stopped {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the node ends it");
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
}
