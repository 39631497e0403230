use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{StoppingReason, WorkspaceState as S, failure::Type};

use cordium_supervisor::timeouts::Timeouts;

use super::{
    fakes::Behaviour,
    lifecycle::{SPEC, STOP},
    node::{Node, UID, states, timeouts},
};

#[tokio::test]
async fn a_stop_works_in_every_phase_of_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for phase in [S::Initializing, S::PullingImage, S::StartingRuntime, S::Preparing] {
        let node = Node::open(&dir.path().join(phase.short_name()), &Arc::default());
        node.world.set(|s| match phase {
            S::Initializing => s.storage_hangs = true,
            S::PullingImage => s.pull_hangs = true,
            S::StartingRuntime => s.start_takes = Duration::from_millis(300),
            _ => s.agent = Behaviour::Silent,
        });
        node.start("r1", SPEC).await.unwrap();
        let revision = node.until(0, phase).await.pop().unwrap().revision;
        node.world.set(|s| s.storage_hangs = false);
        node.stop(false).await.unwrap();
        let events = node.until(revision, S::Stopped).await;
        assert_eq!(states(&events), STOP, "{phase:?}");
        let last = events.last().unwrap();
        assert_eq!((last.stopping_reason(), &last.failure), (StoppingReason::Api, &None), "{phase:?}");
        assert_eq!(node.world.alive(), 0, "{phase:?}");
        assert!(last.has_storage);

        // The same workspace starts again.
        node.world.set(|s| *s = Default::default());
        node.start("r2", SPEC).await.unwrap();
        node.until(last.revision, S::Running).await;
    }
}

#[tokio::test]
async fn a_stop_right_after_the_start_is_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let mut revision = 0;
    for n in 0..20 {
        node.start(&format!("r{n}"), SPEC).await.unwrap();
        tokio::time::sleep(Duration::from_micros(n * 400)).await;
        node.stop(true).await.unwrap();
        let events = node.until(revision.max(1), S::Stopped).await;
        let order: Vec<i32> = events.iter().map(|event| event.state).collect();
        assert!(order.is_sorted(), "{:?}", states(&events));
        assert_eq!(events.last().unwrap().stopping_reason(), StoppingReason::Api);
        revision = events.last().unwrap().revision;
        assert_eq!(node.world.alive(), 0);
    }
}

#[tokio::test]
async fn force_cuts_a_long_graceful_stop_short() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.shutdown_takes = Duration::from_secs(60));
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.stop(false).await.unwrap();
    node.until(revision, S::Stopping).await;
    node.stop(true).await.unwrap();
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    assert!(last.failure.is_none());
}

#[tokio::test]
async fn deletion_cuts_a_long_graceful_stop_short() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.shutdown_takes = Duration::from_secs(60));
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.stop(false).await.unwrap();
    node.until(revision, S::Stopping).await;
    tokio::time::timeout(Duration::from_secs(5), node.delete()).await.unwrap().unwrap();
    assert!(!node.context.dirs.workspace(UID).exists());
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_ended_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.world.set(|s| s.kill_fails = true);
    node.stop(false).await.unwrap();
    let failure = node.until(revision, S::Stopped).await.pop().unwrap().failure.unwrap();
    assert!(matches!(failure.r#type, Some(Type::StoppageTimeoutExceeded(_))));
}

#[tokio::test]
async fn a_crash_during_a_stop_does_not_become_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.shutdown_takes = Duration::from_millis(300));
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.stop(false).await.unwrap();
    node.until(revision, S::Stopping).await;
    node.world.crash(UID, false);
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    assert_eq!((last.stopping_reason(), last.failure), (StoppingReason::Api, None));
}

#[tokio::test]
async fn storage_that_cannot_be_removed_does_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let timeouts = Timeouts { storage: Duration::from_millis(300), ..timeouts() };
    let node = Node::with(dir.path(), &Arc::default(), timeouts);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.world.set(|s| s.storage_hangs = true);
    node.stop(false).await.unwrap();
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    assert!(last.warnings.iter().any(|w| w.contains("took more than 300ms")), "{:?}", last.warnings);
}

#[tokio::test]
async fn a_panic_of_the_start_up_ends_the_run_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.pull_panics = true);
    node.start("r1", SPEC).await.unwrap();
    let last = node.until(1, S::Stopped).await.pop().unwrap();
    assert!(matches!(last.failure.unwrap().r#type, Some(Type::StartupUnknown(_))));
    node.world.set(|s| s.pull_panics = false);
    node.start("r2", SPEC).await.unwrap();
    node.until(last.revision, S::Running).await;
}

#[tokio::test]
async fn nothing_of_a_deleted_workspace_stays_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    let log = Arc::downgrade(node.workspaces.find(UID).unwrap().log());
    node.delete().await.unwrap();
    let gone = async {
        while log.upgrade().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("its owner is forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_talks_without_end_can_be_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.agent = Behaviour::Chatter);
    node.start("r1", SPEC).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    tokio::time::timeout(Duration::from_secs(5), node.stop(false)).await.expect("an answer").unwrap();
    let last = node.until(revision, S::Stopped).await.pop().unwrap();
    assert_eq!((last.stopping_reason(), last.failure), (StoppingReason::Api, None));
}
