//! Two nodes: placement, the merged stream, nodes that go away and return, and the scheduler's own sudden end.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{FakeNode, Scheduler, memory, state_of};
use cordium_proto::v1::{StartWorkspaceRequest, WorkspaceState as S, failure};
use tonic::Code;

const RUN: [S; 6] =
    [S::InitRequest, S::Initializing, S::PullingImage, S::StartingRuntime, S::Preparing, S::Running];

fn start_on(name: &str, node: &str) -> StartWorkspaceRequest {
    StartWorkspaceRequest { r#ref: name.into(), node: node.into(), ..Default::default() }
}

#[tokio::test]
async fn placed_by_free_capacity_and_tied_by_storage() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 4000), FakeNode::new(dir.path(), "b", 2000));
    let _up = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    for (name, mib, node) in [("small", 1000, "b"), ("large", 3000, "a"), ("rest", 1000, "a")] {
        s.create(name, &memory(mib)).await;
        s.start(name).await.unwrap();
        assert_eq!(s.until_state(name, S::Running).await.node, node, "{name}");
    }
    s.create("more", &memory(1500)).await;
    let error = s.start("more").await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("b: 1500 MiB of memory asked, 1000 MiB free"), "{}", error.message());
    assert_eq!(s.status("more").await.state(), S::Stopped);

    let error = s.control().start_workspace(start_on("more", "c")).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("allowed: a, b"), "{}", error.message());

    s.stop("large").await.unwrap();
    s.until_state("large", S::Stopped).await;
    let error = s.control().start_workspace(start_on("large", "b")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    s.control().start_workspace(start_on("large", "a")).await.unwrap();
    assert_eq!(s.until_state("large", S::Running).await.node, "a");
}

#[tokio::test]
async fn the_merged_stream_is_in_order_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 40_000), FakeNode::new(dir.path(), "b", 40_000));
    let _up = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    s.create("first", "{}").await;
    // Reads nothing until all is over.
    let mut slow = s.watch(1).await;
    const N: usize = 30;
    let work = (0..N).map(|i| {
        let s = &s;
        async move {
            let name = format!("w{i}");
            s.create(&name, &memory(100)).await;
            let node = if i % 2 == 0 { "a" } else { "b" };
            s.control().start_workspace(start_on(&name, node)).await.unwrap();
            s.until_state(&name, S::Running).await;
            s.stop(&name).await.unwrap();
            s.until_state(&name, S::Stopped).await;
        }
    });
    futures::future::join_all(work).await;

    let mut ended = 0;
    let seen = slow
        .until(|e| {
            ended += usize::from(state_of(e) == Some(S::Stopped));
            ended == N
        })
        .await;
    assert!(seen.windows(2).all(|w| w[1].revision == w[0].revision + 1), "no gap, no repetition");
    let mut by_workspace: BTreeMap<_, Vec<S>> = BTreeMap::new();
    for event in seen.iter().filter(|e| e.phase.is_some()) {
        let phase = event.phase.as_ref().unwrap();
        assert!(!phase.snapshot);
        by_workspace.entry(phase.workspace_name.clone()).or_default().push(phase.state());
    }
    assert_eq!(by_workspace.len(), N);
    let whole = [&RUN[..], &[S::StoppingRequest, S::Stopping, S::Stopped]].concat();
    for (name, states) in by_workspace {
        assert_eq!(states, whole, "{name}");
    }

    let middle = seen[seen.len() / 2].revision;
    let mut resumed = s.watch(middle).await;
    let last = seen.last().unwrap().revision;
    let rest = resumed.until(|e| e.revision == last).await;
    assert_eq!(rest[0].revision, middle + 1);
    assert_eq!(rest.len() as u64, last - middle);

    let mut snapshot = s.watch(last + 1000).await;
    let mut count = 0;
    let all = snapshot
        .until(|_| {
            count += 1;
            count == N + 1
        })
        .await;
    assert!(all.iter().all(|e| e.phase.as_ref().unwrap().snapshot), "an unknown revision gets a snapshot");
    assert!(all.windows(2).all(|w| w[0].revision < w[1].revision));
}

#[tokio::test]
async fn a_node_goes_away_and_returns() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 8000), FakeNode::new(dir.path(), "b", 8000));
    let (up_a, _up_b) = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    let uid = s.create("web", &memory(100)).await.metadata.unwrap().uid;
    s.control().start_workspace(start_on("web", "a")).await.unwrap();
    s.until_state("web", S::Running).await;
    let mut watch = s.watch_ref(0, "web").await;

    drop(up_a);
    let gone = s.reachable("a", false).await;
    assert!(!gone.error.is_empty() && gone.last_seen_at.is_some());
    let status = s.status("web").await;
    assert_eq!(status.state(), S::Running, "the last known state stays");
    assert!(status.warnings[0].contains("node a does not answer"), "{:?}", status.warnings);
    let error = s.stop("web").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);

    s.create("other", &memory(100)).await;
    s.start("other").await.unwrap();
    assert_eq!(s.until_state("other", S::Running).await.node, "b", "the rest goes on");

    a.fail(&uid, Default::default());
    let _up_a = a.up();
    s.reachable("a", true).await;
    let status = s.until_state("web", S::Stopped).await;
    assert!(status.warnings.is_empty());
    let seen = watch.until(|e| state_of(e) == Some(S::Stopped)).await;
    let states: Vec<_> = seen.iter().filter_map(state_of).collect();
    assert_eq!(states, [S::Running, S::StoppingRequest, S::Stopping, S::Stopped]);
}

#[tokio::test]
async fn a_node_whose_journal_was_cut_sends_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    a.with(|s| s.until = Some(S::Initializing));
    let uid = s.create("web", "{}").await.metadata.unwrap().uid;
    s.start("web").await.unwrap();
    s.until_state("web", S::Initializing).await;
    drop(up);
    s.reachable("a", false).await;
    for state in [S::PullingImage, S::StartingRuntime, S::Preparing, S::Running] {
        a.tell(&uid, state, |_| ());
    }
    a.compact();
    let _up = a.up();
    let status = s.until_state("web", S::Running).await;
    assert_eq!(status.successful_runs, 1);
    s.stop("web").await.unwrap();
    s.until_state("web", S::Stopped).await;
}

#[tokio::test]
async fn a_node_that_lost_its_state_ends_its_runs() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    s.create("web", "{}").await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    drop(up);
    s.reachable("a", false).await;
    a.with(|s| *s = Default::default());
    let _up = a.up();
    let status = s.until_state("web", S::Stopped).await;
    assert!(matches!(status.failure.as_ref().unwrap().r#type, Some(failure::Type::Unknown(_))), "{status:?}");
    assert_eq!(status.node, "");
    s.start("web").await.unwrap();
    assert_eq!(s.until_state("web", S::Running).await.successful_runs, 2);
}

#[tokio::test]
async fn an_impostor_is_not_driven() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let _up = a.up();
    let mistaken = FakeNode { name: "b".into(), ..a.clone() };
    let s = Scheduler::up(dir.path(), &[&mistaken]).await;
    s.create("web", "{}").await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let error = s.start("web").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("calls itself \"a\""), "{}", error.message());
}

#[tokio::test]
async fn killed_and_resumed_without_loss_or_repetition() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 8000), FakeNode::new(dir.path(), "b", 8000));
    let _up = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    let mut uids = Vec::new();
    for (name, node) in [("one", a.clone()), ("two", b.clone())] {
        node.with(|s| s.until = Some(S::PullingImage));
        uids.push(s.create(name, &memory(100)).await.metadata.unwrap().uid);
        s.control().start_workspace(start_on(name, &node.name)).await.unwrap();
        s.until_state(name, S::PullingImage).await;
    }
    let mut watch = s.watch(0).await;
    let last = watch.until(|e| e.workspace.as_ref().unwrap().metadata.as_ref().unwrap().name == "two").await;
    let seen_upto = last.last().unwrap().revision;
    drop(s);

    for (uid, node) in uids.iter().zip([&a, &b]) {
        for state in [S::StartingRuntime, S::Preparing, S::Running] {
            node.tell(uid, state, |_| ());
        }
    }
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    for name in ["one", "two"] {
        let status = s.until_state(name, S::Running).await;
        assert_eq!(status.successful_runs, 1);
    }
    let mut watch = s.watch(seen_upto).await;
    let mut running = 0;
    let seen = watch
        .until(|e| {
            running += usize::from(state_of(e) == Some(S::Running));
            running == 2
        })
        .await;
    assert_eq!(seen.len(), 6, "three each: {seen:?}");
    assert!(seen.windows(2).all(|w| w[1].revision == w[0].revision + 1));
    assert_eq!(a.with(|s| s.starts.len()) + b.with(|s| s.starts.len()), 2, "nothing was started twice");
}

#[tokio::test]
async fn a_start_that_the_node_never_got_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let _up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    s.create("web", "{}").await;
    a.with(|s| s.refuse = Some(tonic::Status::unavailable("overloaded")));
    let answer = s.start("web").await.unwrap().status.unwrap();
    assert_eq!(answer.state(), S::InitRequest, "promised");
    assert!(answer.warnings[0].contains("sent again"), "{:?}", answer.warnings);
    drop(s);
    let s = Scheduler::up(dir.path(), &[&a]).await;
    a.with(|s| s.refuse = None);
    let status = s.until_state("web", S::Running).await;
    assert_eq!(status.run.unwrap().id, a.with(|s| s.starts[0].run_id.clone()));
    assert_eq!(a.with(|s| s.starts.len()), 1);
}

#[tokio::test]
async fn killed_while_the_node_had_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let a = FakeNode::new(dir.path(), "a", 8000);
    let _up = a.up();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    s.reachable("a", true).await;
    s.create("web", "{}").await;
    a.with(|s| s.mute = true);
    let mut control = s.control();
    let asked = tokio::spawn(async move { control.start_workspace(start_on("web", "")).await });
    while a.with(|s| s.starts.is_empty()) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(s);
    asked.abort();
    let s = Scheduler::up(dir.path(), &[&a]).await;
    let status = s.until_state("web", S::Running).await;
    assert_eq!(status.successful_runs, 1);
    assert_eq!(a.with(|s| s.starts.len()), 1);
}
