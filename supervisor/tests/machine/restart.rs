use std::sync::Arc;

use cordium_proto::v1::{StoppingReason, WorkspaceState as S, failure::Type};

use super::{
    fakes::{Behaviour, World},
    lifecycle::SPEC,
    node::{Node, UID, states},
};

#[tokio::test]
async fn a_running_workspace_outlives_the_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.end().await;
    assert_eq!(world.alive(), 1);

    let node = Node::open(dir.path(), &world);
    assert_eq!(node.context.ring.newest(), revision);
    // Nothing has changed, so nothing is told.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(node.context.ring.newest(), revision);
    node.stop(false).await.unwrap();
    let events = node.until(revision, S::Stopped).await;
    assert_eq!(events[0].revision, revision + 1);
    assert_eq!(
        (events.last().unwrap().stopping_reason(), &events.last().unwrap().failure),
        (StoppingReason::Api, &None)
    );
    assert_eq!(world.alive(), 0);
}

#[tokio::test]
async fn one_that_was_preparing_goes_on_to_run() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    world.set(|s| s.agent = Behaviour::Silent);
    let node = Node::open(dir.path(), &world);
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Preparing).await;
    while world.prepared.lock().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let revision = node.context.ring.newest();
    node.end().await;
    let node = Node::open(dir.path(), &world);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert_eq!(node.context.ring.newest(), revision);
    node.stop(false).await.unwrap();
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    assert_eq!((last.failure, world.alive()), (None, 0));
}

#[tokio::test]
async fn one_whose_sandbox_ended_meanwhile_is_stopped_with_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.end().await;
    world.crash(UID, false);
    let node = Node::open(dir.path(), &world);
    let events = node.until(revision, S::Stopped).await;
    let last = events.last().unwrap();
    assert!(matches!(last.failure.as_ref().unwrap().r#type, Some(Type::HealthCheck(_))));
    assert_eq!(last.stopping_reason(), StoppingReason::Error);
    node.start("r2", SPEC).await.unwrap();
    node.until(last.revision, S::Running).await;
}

#[tokio::test]
async fn one_that_was_starting_is_stopped_and_startable() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    world.set(|s| s.pull_hangs = true);
    let node = Node::open(dir.path(), &world);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::PullingImage).await.pop().unwrap().revision;
    node.end().await;
    world.set(|s| s.pull_hangs = false);
    let node = Node::open(dir.path(), &world);
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    let failure = last.failure.unwrap();
    assert!(matches!(failure.r#type, Some(Type::StartupUnknown(_))));
    assert!(failure.message.contains("PULLING_IMAGE"), "{}", failure.message);
    node.start("r2", SPEC).await.unwrap();
    node.until(last.revision, S::Running).await;
}

#[tokio::test]
async fn one_that_was_stopping_is_stopped_for_the_reason_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    world.set(|s| s.shutdown_takes = std::time::Duration::from_secs(60));
    let node = Node::open(dir.path(), &world);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.stop(false).await.unwrap();
    let revision = node.until(revision, S::Stopping).await.pop().unwrap().revision;
    // As after kill -9: the helpers do not end by themselves.
    node.context.shutdown.cancel();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    node.context.store.close();
    drop(node);
    world.set(|s| s.shutdown_takes = std::time::Duration::ZERO);
    let node = Node::open(dir.path(), &world);
    let events = node.until(revision, S::Stopped).await;
    let last = events.last().unwrap();
    assert_eq!(
        (last.stopping_reason(), &last.failure),
        (StoppingReason::Api, &None),
        "{:?}",
        states(&events)
    );
    assert_eq!(world.alive(), 0);
}
