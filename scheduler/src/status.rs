//! The bookkeeping of a workspace's status: a pure function of the status before and one phase event.
//!
//! ```text
//! begin_run ──▶ INIT_REQUEST ─▶ … ─▶ RUNNING ─▶ STOPPING_REQUEST ─▶ STOPPING ─▶ STOPPED ──▶ begin_run
//!                    └──────────── any state may be left out, none is gone back to ──┘
//! ```
//!
//! Within a run states only grow, and runs only get younger. So an event may be applied again, or arrive as part
//! of a snapshot after its successors, and changes nothing.

use std::{cmp::Ordering, collections::HashMap};

use cordium_proto::v1::{Failure, PhaseEvent, Run, StoppingReason, WorkspaceState, WorkspaceStatus};
use prost_types::Timestamp;

use crate::clock::{add_span, later};

/// How many runs are remembered, besides the current one.
pub const MAX_LAST_RUNS: usize = 1000;
const MAX_FAILURE_TEXT: usize = 16 << 10;
const MAX_WARNINGS: usize = 32;
const MAX_WARNING_TEXT: usize = 1024;

/// What an event did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing: it is known already, or overtaken.
    Stale,
    /// The state is as before; what is known about it has grown.
    Detail,
    /// The workspace is in another state now.
    Transition,
}

/// The status of a workspace that has never run.
pub fn initial(space: &str, template: &str, at: Timestamp) -> WorkspaceStatus {
    WorkspaceStatus {
        state: WorkspaceState::Stopped.into(),
        last_state: WorkspaceState::Stopped.into(),
        current_state_set_at: Some(at),
        last_state_set_at: Some(at),
        space: space.to_owned(),
        template: template.to_owned(),
        ..Default::default()
    }
}

/// Opens a new run: the one before moves to `last_runs`, what it left behind is cleared.
pub fn begin_run(status: &mut WorkspaceStatus, run_id: &str, vars: HashMap<String, String>, at: Timestamp) {
    let at = later(at, status.current_state_set_at.as_ref());
    if let Some(mut previous) = status.run.take() {
        previous.stopped_at.get_or_insert(at);
        status.last_runs.insert(0, previous);
        status.last_runs.truncate(MAX_LAST_RUNS);
    }
    status.run = Some(Run { id: run_id.to_owned(), initialized_at: Some(at), vars, ..Default::default() });
    status.failure = None;
    status.warnings.clear();
    status.stopping_reason = StoppingReason::Unset.into();
    status.hostname.clear();
    status.last_initialized_at = Some(at);
    enter(status, WorkspaceState::InitRequest, at);
}

/// Applies one event to the status of workspace `name`.
pub fn apply(status: &mut WorkspaceStatus, name: &str, event: &PhaseEvent) -> Outcome {
    let (state, at) = (event.state(), event.at.unwrap_or_default());
    if state == WorkspaceState::Unknown {
        return Outcome::Stale;
    }
    let mut began = false;
    match age(status, &event.run_id) {
        Ordering::Less => return Outcome::Stale,
        Ordering::Greater => {
            begin_run(status, &event.run_id, HashMap::new(), at);
            began = true;
        }
        Ordering::Equal => {}
    }
    match (state as i32).cmp(&status.state) {
        Ordering::Less if began => Outcome::Transition,
        Ordering::Less => Outcome::Stale,
        Ordering::Equal => {
            let before = status.clone();
            learn(status, event);
            match (began, before == *status) {
                (true, _) => Outcome::Transition,
                (false, true) => Outcome::Stale,
                (false, false) => Outcome::Detail,
            }
        }
        Ordering::Greater => {
            transition(status, name, event, state, at);
            Outcome::Transition
        }
    }
}

/// True while a run holds resources of a node.
pub fn is_active(status: &WorkspaceStatus) -> bool {
    status.state() != WorkspaceState::Stopped
}

/// How the event's run stands to the current one. Run ids are time-ordered.
fn age(status: &WorkspaceStatus, run_id: &str) -> Ordering {
    match &status.run {
        _ if run_id.is_empty() => Ordering::Equal,
        None => Ordering::Greater,
        Some(run) => run_id.cmp(&run.id),
    }
}

fn transition(
    status: &mut WorkspaceStatus,
    name: &str,
    event: &PhaseEvent,
    state: WorkspaceState,
    at: Timestamp,
) {
    let at = later(at, status.current_state_set_at.as_ref());
    // A snapshot may show only what came after RUNNING.
    let skipped_running = event.snapshot && event.last_state() == WorkspaceState::Running;
    if (state == WorkspaceState::Running || skipped_running) && !reached_running(status) {
        status.successful_runs += 1;
        status.last_running_at = Some(at);
    }
    enter(status, state, at);
    learn(status, event);
    status.last_activity_at = Some(at);
    status.hostname = match state {
        WorkspaceState::Running => format!("{name}.cordium.local"),
        _ => String::new(),
    };
    if state == WorkspaceState::Stopped {
        stopped(status, event, at);
    }
}

fn stopped(status: &mut WorkspaceStatus, event: &PhaseEvent, at: Timestamp) {
    status.last_stopped_at = Some(at);
    status.last_stopping_reason = status.stopping_reason;
    if !event.has_storage {
        status.node.clear();
    }
    if let Some(run) = &mut status.run
        && run.stopped_at.is_none()
    {
        run.stopped_at = Some(at);
        let from = run.initialized_at.unwrap_or(at);
        status.total_last_runs_duration =
            Some(add_span(status.total_last_runs_duration.as_ref(), &from, &at));
    }
}

/// Takes over what the event knows besides the state.
fn learn(status: &mut WorkspaceStatus, event: &PhaseEvent) {
    if status.node.is_empty() && (is_active(status) || event.has_storage) {
        status.node = event.node.clone();
    }
    if event.limit.is_some() {
        status.limit = event.limit;
    }
    if event.stopping_reason() != StoppingReason::Unset {
        status.stopping_reason = event.stopping_reason;
        if status.state() == WorkspaceState::Stopped {
            status.last_stopping_reason = event.stopping_reason;
        }
    }
    if status.failure.is_none()
        && let Some(failure) = &event.failure
    {
        let failure = Failure { message: clip(&failure.message, MAX_FAILURE_TEXT), ..failure.clone() };
        if let Some(run) = &mut status.run {
            run.failure = Some(failure.clone());
        }
        status.failure = Some(failure);
    }
    for warning in &event.warnings {
        warn(status, warning);
    }
}

/// Adds a warning once, within bounds.
pub fn warn(status: &mut WorkspaceStatus, warning: &str) {
    let warning = clip(warning, MAX_WARNING_TEXT);
    // It counts: the newest says all.
    if warning.starts_with(cordium_proto::OOM_WARNING) && !status.warnings.contains(&warning) {
        status.warnings.retain(|known| !known.starts_with(cordium_proto::OOM_WARNING));
    }
    if status.warnings.len() < MAX_WARNINGS && !status.warnings.contains(&warning) {
        status.warnings.push(warning);
    }
}

fn enter(status: &mut WorkspaceStatus, state: WorkspaceState, at: Timestamp) {
    status.last_state = status.state;
    status.last_state_set_at = status.current_state_set_at;
    status.state = state.into();
    status.current_state_set_at = Some(at);
}

fn reached_running(status: &WorkspaceStatus) -> bool {
    let key = |t: &Timestamp| (t.seconds, t.nanos);
    match (&status.last_running_at, status.run.as_ref().and_then(|r| r.initialized_at.as_ref())) {
        (Some(running), Some(begun)) => key(running) >= key(begun),
        _ => false,
    }
}

/// The end of a text says most about a failure, so that is what is kept.
fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let from = (text.len() - max..text.len()).find(|&i| text.is_char_boundary(i)).unwrap_or(text.len());
    format!("…{}", &text[from..])
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
