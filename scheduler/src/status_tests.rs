//! Whole lifecycles through the pure bookkeeping, after the acceptance cases L1 to L12.
#![allow(clippy::unwrap_used)]

use cordium_proto::v1::{Limit, failure};

use super::*;

const INIT: WorkspaceState = WorkspaceState::InitRequest;
const RUNNING: WorkspaceState = WorkspaceState::Running;
const STOPPED: WorkspaceState = WorkspaceState::Stopped;
const UP: [WorkspaceState; 6] = [
    INIT,
    WorkspaceState::Initializing,
    WorkspaceState::PullingImage,
    WorkspaceState::StartingRuntime,
    WorkspaceState::Preparing,
    RUNNING,
];
const DOWN: [WorkspaceState; 3] = [WorkspaceState::StoppingRequest, WorkspaceState::Stopping, STOPPED];

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

fn event(run: &str, state: WorkspaceState, seconds: i64) -> PhaseEvent {
    let reason = if (state as i32) >= WorkspaceState::StoppingRequest as i32 {
        StoppingReason::Api
    } else {
        StoppingReason::Unset
    };
    PhaseEvent {
        node: "n1".into(),
        run_id: run.into(),
        state: state.into(),
        at: Some(at(seconds)),
        has_storage: true,
        stopping_reason: reason.into(),
        ..Default::default()
    }
}

fn fresh() -> WorkspaceStatus {
    initial("default", "default", at(1))
}

/// One run: each state one second after the one before.
fn play(status: &mut WorkspaceStatus, run: &str, from: i64, states: &[WorkspaceState]) -> i64 {
    begin_run(status, run, HashMap::new(), at(from));
    let mut now = from;
    for state in states {
        now += 1;
        apply(status, "web", &event(run, *state, now));
    }
    now
}

#[test]
fn l1_running() {
    let mut s = fresh();
    assert_eq!(s.state(), STOPPED);
    play(&mut s, "r1", 10, &UP);
    assert_eq!((s.state(), s.last_state()), (RUNNING, WorkspaceState::Preparing));
    assert_eq!((s.node.as_str(), s.hostname.as_str()), ("n1", "web.cordium.local"));
    assert_eq!((s.last_initialized_at, s.last_running_at), (Some(at(10)), Some(at(16))));
    assert_eq!((s.successful_runs, &s.failure), (1, &None));
    let run = s.run.as_ref().unwrap();
    assert_eq!((run.id.as_str(), run.stopped_at), ("r1", None));
    assert!(s.last_runs.is_empty());
}

#[test]
fn l3_time_never_goes_back() {
    let mut s = fresh();
    play(&mut s, "r1", 100, &UP[..3]);
    apply(&mut s, "web", &event("r1", RUNNING, 50));
    assert_eq!(s.last_running_at, Some(at(103)));
    assert_eq!((s.last_state_set_at, s.current_state_set_at), (Some(at(103)), Some(at(103))));
}

#[test]
fn l7_stop() {
    let mut s = fresh();
    let now = play(&mut s, "r1", 10, &UP);
    assert_eq!(apply(&mut s, "web", &event("r1", DOWN[0], now + 10)), Outcome::Transition);
    assert_eq!((s.hostname.as_str(), s.stopping_reason()), ("", StoppingReason::Api));
    apply(&mut s, "web", &event("r1", DOWN[1], now + 11));
    apply(&mut s, "web", &event("r1", DOWN[2], now + 14));
    assert_eq!(s.last_stopped_at, Some(at(30)));
    assert_eq!(s.last_stopping_reason(), StoppingReason::Api);
    assert_eq!(s.run.as_ref().unwrap().stopped_at, Some(at(30)));
    assert_eq!(s.total_last_runs_duration.unwrap().seconds, 20);
    assert_eq!(s.node, "n1", "the storage keeps it there");
}

#[test]
fn l9_second_run() {
    let mut s = fresh();
    let now = play(&mut s, "r1", 10, &[&UP[..], &DOWN].concat());
    let now = play(&mut s, "r2", now + 5, &UP);
    assert_eq!((s.successful_runs, s.last_runs.len()), (2, 1));
    assert_eq!(s.last_runs[0].id, "r1");
    assert!(s.last_runs[0].stopped_at.is_some());
    assert_eq!(s.run.as_ref().unwrap().id, "r2");
    assert_eq!((s.stopping_reason(), s.last_stopping_reason()), (StoppingReason::Unset, StoppingReason::Api));
    for state in DOWN {
        apply(&mut s, "web", &event("r2", state, now + 1));
    }
    assert_eq!(s.total_last_runs_duration.unwrap().seconds, 9 + 7);
}

#[test]
fn l11_ephemeral_leaves_its_node() {
    let mut s = fresh();
    play(&mut s, "r1", 10, &[&UP[..], &DOWN[..2]].concat());
    apply(&mut s, "web", &PhaseEvent { has_storage: false, ..event("r1", STOPPED, 40) });
    assert_eq!((s.state(), s.node.as_str()), (STOPPED, ""));
}

#[test]
fn l12_stop_while_starting() {
    let mut s = fresh();
    play(&mut s, "r1", 10, &[&UP[..3], &DOWN].concat());
    assert_eq!((s.successful_runs, s.last_running_at), (0, None));
    assert_eq!((s.hostname.as_str(), s.last_stopping_reason()), ("", StoppingReason::Api));
}

#[test]
fn a_failure_is_kept_until_the_next_start() {
    let mut s = fresh();
    play(&mut s, "r1", 10, &UP[..3]);
    let failure = Failure {
        message: "x".repeat(MAX_FAILURE_TEXT + 10),
        r#type: Some(failure::Type::ImagePull(failure::Unit {})),
    };
    apply(&mut s, "web", &PhaseEvent { failure: Some(failure), ..event("r1", STOPPED, 20) });
    assert!(matches!(s.failure.as_ref().unwrap().r#type, Some(failure::Type::ImagePull(_))));
    assert!(s.failure.as_ref().unwrap().message.len() <= MAX_FAILURE_TEXT + '…'.len_utf8());
    assert_eq!(s.run.as_ref().unwrap().failure, s.failure);
    begin_run(&mut s, "r2", HashMap::new(), at(30));
    assert_eq!(s.failure, None);
    assert!(s.last_runs[0].failure.is_some());
}

#[test]
fn replays_change_nothing() {
    let states = [&UP[..], &DOWN].concat();
    let events: Vec<_> = (11..).zip(&states).map(|(t, state)| event("r1", *state, t)).collect();
    let mut s = fresh();
    begin_run(&mut s, "r1", HashMap::new(), at(10));
    for event in &events {
        apply(&mut s, "web", event);
    }
    let after = s.clone();
    for event in &events {
        assert_eq!(apply(&mut s, "web", event), Outcome::Stale);
    }
    assert_eq!(s, after);

    play(&mut s, "r2", 50, &UP);
    let after = s.clone();
    for event in &events {
        assert_eq!(apply(&mut s, "web", event), Outcome::Stale, "of an older run");
    }
    assert_eq!(s, after);
}

#[test]
fn details_grow_in_place() {
    let mut s = fresh();
    play(&mut s, "r1", 10, &UP[..2]);
    let limit = Limit { memory_mib: 64, ..Default::default() };
    let detail =
        PhaseEvent { limit: Some(limit), warnings: vec!["no pids limit".into()], ..event("r1", UP[1], 13) };
    assert_eq!(apply(&mut s, "web", &detail), Outcome::Detail);
    assert_eq!(apply(&mut s, "web", &detail), Outcome::Stale);
    assert_eq!((s.limit, s.warnings.len()), (Some(limit), 1));
    assert_eq!(s.current_state_set_at, Some(at(12)));
}

#[test]
fn a_snapshot_behind_running_still_counts_the_run() {
    let mut s = fresh();
    play(&mut s, "r1", 10, &UP[..2]);
    let late = PhaseEvent { snapshot: true, last_state: RUNNING.into(), ..event("r1", DOWN[0], 30) };
    apply(&mut s, "web", &late);
    apply(&mut s, "web", &late);
    assert_eq!(s.successful_runs, 1);
}

#[test]
fn a_run_begun_on_the_node_is_taken_over() {
    let mut s = fresh();
    assert_eq!(apply(&mut s, "web", &event("r7", WorkspaceState::Preparing, 20)), Outcome::Transition);
    assert_eq!(s.run.as_ref().unwrap().id, "r7");
    assert_eq!(s.last_initialized_at, Some(at(20)));
    assert_eq!(s.node, "n1");
}

#[test]
fn history_is_bounded() {
    let mut s = fresh();
    for i in 0..MAX_LAST_RUNS + 5 {
        begin_run(&mut s, &format!("r{i:06}"), HashMap::new(), at(10));
    }
    assert_eq!(s.last_runs.len(), MAX_LAST_RUNS);
    assert_eq!(s.last_runs[0].id, format!("r{:06}", MAX_LAST_RUNS + 3));
}

#[test]
fn a_newer_count_of_kills_replaces_the_older() {
    let mut status = initial("s", "t", at(0));
    let killer = cordium_proto::OOM_WARNING;
    for text in
        ["other".to_owned(), format!("{killer} ended 1 process"), format!("{killer} ended 2 processes")]
    {
        warn(&mut status, &text);
        warn(&mut status, &text);
    }
    assert_eq!(status.warnings, ["other".to_owned(), format!("{killer} ended 2 processes")]);
}
