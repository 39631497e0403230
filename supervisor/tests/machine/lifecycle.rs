use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{
    Failure, StoppingReason, WorkspaceState as S,
    failure::{TaskFailure, Type, Unit},
};
use tonic::Code;

use super::{
    fakes::{Behaviour, World},
    node::{Node, UID, states, timeouts},
};

pub const SPEC: &str =
    r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}},"limit":{"memory":{"megabytes":512}}}"#;
pub const EPHEMERAL: &str = r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}},"isEphemeral":true}"#;

pub const START: [S; 6] =
    [S::InitRequest, S::Initializing, S::PullingImage, S::StartingRuntime, S::Preparing, S::Running];
pub const STOP: [S; 3] = [S::StoppingRequest, S::Stopping, S::Stopped];

#[tokio::test]
async fn a_run_passes_through_every_phase_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    assert_eq!(node.start("r1", SPEC).await.unwrap(), 1);
    let up = node.until(0, S::Running).await;
    assert_eq!(up.last().unwrap().limit.unwrap().memory_mib, 512);
    assert_eq!(up.last().unwrap().last_state(), S::Preparing);
    assert!(up.last().unwrap().warnings.contains(&"storage is not enforced".to_owned()));
    let revision = up.last().unwrap().revision;
    node.stop(false).await.unwrap();
    let down = node.until(revision, S::Stopped).await;
    let all: Vec<_> = node.until(0, S::Stopped).await;
    assert_eq!(states(&down), STOP);
    assert!(all.iter().all(|event| event.run_id == "r1" && event.failure.is_none()));
    let last = down.last().unwrap();
    assert_eq!((last.stopping_reason(), last.has_storage), (StoppingReason::Api, true));
    assert_eq!(node.world.alive(), 0);
    assert!(!node.context.dirs.sandbox(UID).exists());
    // PRE_STOP tasks were asked for.
    assert!(!node.world.shutdowns.lock().unwrap()[0].skip_tasks);
}

#[tokio::test]
async fn transitions_have_consecutive_revisions_in_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    let cordium_supervisor::store::Page::Events(events) = node.context.store.reader().after(0, 100).unwrap()
    else {
        panic!("the journal is gone")
    };
    let events: Vec<_> = events.iter().map(|event| event.as_ref().clone()).collect();
    assert_eq!(states(&events), START);
    assert!(events.windows(2).all(|pair| {
        let at = |event: &cordium_proto::v1::PhaseEvent| event.at.map(|at| (at.seconds, at.nanos));
        pair[0].revision + 1 == pair[1].revision && at(&pair[0]) <= at(&pair[1])
    }));
}

#[tokio::test]
async fn a_start_is_idempotent_by_its_run_id() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let first = node.start("r1", SPEC).await.unwrap();
    node.until(0, S::Running).await;
    assert_eq!(node.start("r1", SPEC).await.unwrap(), first);
    let refused = node.start("r2", SPEC).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.metadata().contains_key(cordium_proto::HINT_KEY));
    node.stop(true).await.unwrap();
    node.until(first, S::Stopped).await;
    assert_eq!(node.start("r1", SPEC).await.unwrap(), first);
    assert_eq!(*node.world.pulls.lock().unwrap(), 1);
    assert_eq!(node.stop(false).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn only_the_first_good_run_is_fresh_and_persistent_storage_stays() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.pull_fails = Some("manifest unknown".into()));
    node.start("r0", SPEC).await.unwrap();
    let events = node.until(1, S::Stopped).await;
    let last = events.last().unwrap();
    assert!(matches!(last.failure.as_ref().unwrap().r#type, Some(Type::ImagePull(_))), "{last:?}");
    assert!(last.failure.as_ref().unwrap().message.contains("manifest unknown"));
    assert_eq!(last.stopping_reason(), StoppingReason::Error);
    assert!(!states(&events).contains(&S::Running));

    node.world.set(|s| s.pull_fails = None);
    let mut revision = last.revision;
    for run in ["r1", "r2"] {
        node.start(run, SPEC).await.unwrap();
        let up = node.until(revision, S::Running).await;
        assert!(up.last().unwrap().failure.is_none());
        let marker = node.context.dirs.volume(UID).join("marker");
        assert_eq!(marker.exists(), run == "r2");
        std::fs::write(marker, "x").unwrap();
        node.stop(true).await.unwrap();
        revision = node.until(up.last().unwrap().revision, S::Stopped).await.last().unwrap().revision;
    }
    let fresh: Vec<_> = node.world.prepared.lock().unwrap().iter().map(|p| p.fresh).collect();
    assert_eq!(fresh, [true, false]);
}

#[tokio::test]
async fn a_run_that_fails_after_creation_is_not_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let kind = Type::Task(TaskFailure { name: "t".into(), exit_code: 13, ..Default::default() });
    let failure = Failure { message: "task t exited with 13".into(), r#type: Some(kind) };
    node.world.set(|s| s.agent = Behaviour::CreateThenFail(failure.clone()));
    node.start("r1", SPEC).await.unwrap();
    let events = node.until(1, S::Stopped).await;
    assert_eq!(events.last().unwrap().failure, Some(failure));
    // No PRE_STOP for a run that never ran.
    assert!(node.world.shutdowns.lock().unwrap()[0].skip_tasks);
    node.world.set(|s| s.agent = Behaviour::Run);
    node.start("r2", SPEC).await.unwrap();
    node.until(events.last().unwrap().revision, S::Running).await;
    assert!(!node.world.prepared.lock().unwrap()[1].fresh);
}

#[tokio::test]
async fn an_agent_that_fails_before_creation_is_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let failure = Failure { message: "fatal: not found".into(), r#type: Some(Type::RepoClone(Unit {})) };
    node.world.set(|s| s.agent = Behaviour::Fail(failure.clone()));
    node.start("r1", SPEC).await.unwrap();
    let events = node.until(1, S::Stopped).await;
    assert_eq!(events.last().unwrap().failure, Some(failure));
    node.world.set(|s| s.agent = Behaviour::Run);
    node.start("r2", SPEC).await.unwrap();
    node.until(events.last().unwrap().revision, S::Running).await;
    assert!(node.world.prepared.lock().unwrap()[1].fresh);
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_started_is_run_container() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.start_fails = Some("mounting the overlay: EINVAL".into()));
    node.start("r1", SPEC).await.unwrap();
    let last = node.until(1, S::Stopped).await.pop().unwrap();
    let failure = last.failure.unwrap();
    assert!(matches!(failure.r#type, Some(Type::RunContainer(_))));
    assert!(failure.message.contains("EINVAL"), "{}", failure.message);
}

#[tokio::test]
async fn a_sandbox_that_dies_is_a_failed_health_check_unless_memory_ran_out() {
    for out_of_memory in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::open(dir.path(), &Arc::default());
        node.start("r1", SPEC).await.unwrap();
        let revision = node.until(0, S::Running).await.pop().unwrap().revision;
        node.world.crash(UID, out_of_memory);
        let events = node.until(revision, S::Stopped).await;
        assert_eq!(states(&events), STOP);
        let failure = events.last().unwrap().failure.clone().unwrap();
        let told = match failure.r#type {
            Some(Type::HealthCheck(_)) => Some(false),
            Some(Type::OutOfMemory(_)) => Some(true),
            _ => None,
        };
        assert_eq!(told, Some(out_of_memory), "{failure:?}");
        assert_eq!(failure.message.contains("out of memory"), out_of_memory, "{}", failure.message);
    }
}

#[tokio::test]
async fn auto_stop_ends_without_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| s.agent = Behaviour::Finish);
    node.start("r1", SPEC).await.unwrap();
    let events = node.until(1, S::Stopped).await;
    assert_eq!(states(&events)[4..], [S::Running, STOP[0], STOP[1], STOP[2]]);
    let last = events.last().unwrap();
    assert_eq!((last.stopping_reason(), &last.failure), (StoppingReason::Cluster, &None));
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    for hang in [S::PullingImage, S::Preparing] {
        let dir = dir.path().join(hang.short_name());
        let quick =
            cordium_supervisor::timeouts::Timeouts { fresh_start: Duration::from_millis(300), ..timeouts() };
        let node = Node::with(&dir, &Arc::default(), quick);
        node.world.set(|s| match hang {
            S::PullingImage => s.pull_hangs = true,
            _ => s.agent = Behaviour::Silent,
        });
        node.start("r1", SPEC).await.unwrap();
        let last = node.until(1, S::Stopped).await.pop().unwrap();
        let failure = last.failure.unwrap();
        assert!(matches!(failure.r#type, Some(Type::StartupTimeoutExceeded(_))), "{failure:?}");
        assert!(failure.message.contains(hang.short_name()), "{}", failure.message);
        assert_eq!(node.world.alive(), 0);
    }
}

#[tokio::test]
async fn ephemeral_storage_goes_with_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let mut revision = 0;
    for run in ["r1", "r2"] {
        node.start(run, EPHEMERAL).await.unwrap();
        revision = node.until(revision, S::Running).await.pop().unwrap().revision;
        assert!(node.context.dirs.volume(UID).exists());
        node.stop(false).await.unwrap();
        let last = node.until(revision, S::Stopped).await.pop().unwrap();
        assert!(!last.has_storage && !node.context.dirs.volume(UID).exists());
        revision = last.revision;
    }
    assert!(node.world.prepared.lock().unwrap().iter().all(|p| p.fresh));
}

#[tokio::test]
async fn deletion_removes_everything_at_rest_and_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.delete().await.unwrap();
    for run in ["r1", "r2"] {
        node.start(run, SPEC).await.unwrap();
        let revision = node.until(node.context.ring.newest() - 1, S::Running).await.pop().unwrap().revision;
        if run == "r2" {
            node.stop(false).await.unwrap();
            node.until(revision, S::Stopped).await;
        }
        node.delete().await.unwrap();
        assert!(!node.context.dirs.workspace(UID).exists() && node.world.alive() == 0);
        assert!(node.context.store.reader().snapshot().unwrap().events.is_empty());
        let last = node.until(revision, S::Stopped).await;
        assert!(last.iter().all(|event| event.revision > revision));
    }
    // A deleted workspace is fresh again.
    assert!(node.world.prepared.lock().unwrap().iter().all(|p| p.fresh));
}

#[tokio::test]
async fn bad_specs_are_refused_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    for spec in ["{}", "{", r#"{"imag":1}"#, r#"{"image":{"registry":{"url":""}}}"#] {
        assert_eq!(node.start("r1", spec).await.unwrap_err().code(), Code::InvalidArgument, "{spec}");
    }
    assert_eq!(node.context.ring.newest(), 0);
    assert!(!node.context.dirs.workspace(UID).exists());
}

#[tokio::test]
async fn a_hundred_workspaces_start_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Arc::new(Node::open(dir.path(), &world));
    let starts = (0..100).map(|n| {
        let request = cordium_proto::v1::StartRequest {
            workspace_uid: format!("w{n}"),
            workspace_name: format!("w{n}"),
            run_id: format!("r{n}"),
            spec_json: SPEC.into(),
            ..Default::default()
        };
        let node = node.clone();
        async move {
            use cordium_proto::v1::node_server::Node as _;
            node.node.start(tonic::Request::new(request)).await.unwrap();
        }
    });
    futures::future::join_all(starts).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let snapshot = node.context.store.reader().snapshot().unwrap();
        if snapshot.events.iter().filter(|e| e.state() == S::Running).count() == 100 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
