//! Puts a node's phase events into the store, with the position in its stream.

use std::sync::Arc;

use cordium_proto::v1::{PhaseEvent, WorkspaceState};
use rusqlite::Connection;

use crate::{
    audit::{Audit, entries},
    clock,
    core::Core,
    error::ApiError,
    names::Target,
    status::{self, Outcome},
    store::{self, journal, workspaces},
};

/// How far a node's stream has been applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// To resume from.
    pub cursor: u64,
    /// The newest revision inside a snapshot that has not been followed by a live event yet. A snapshot is not in
    /// order, so nobody may resume from within it.
    pub snapshot: u64,
}

impl Position {
    pub fn newest(&self) -> u64 {
        self.cursor.max(self.snapshot)
    }

    fn after(mut self, event: &PhaseEvent) -> Self {
        if event.snapshot {
            self.snapshot = self.snapshot.max(event.revision);
        } else {
            self.cursor = self.newest().max(event.revision);
        }
        self
    }
}

/// Applies a batch in one transaction and returns the new position.
pub async fn batch(
    core: &Arc<Core>,
    node: &str,
    position: Position,
    events: Vec<PhaseEvent>,
) -> Result<Position, ApiError> {
    let (inner, node) = (core.clone(), node.to_owned());
    core.store
        .write(move |tx| {
            let mut position = position;
            for event in events {
                if event.snapshot || event.revision > position.cursor {
                    let outcome = one(tx, &node, &event)?;
                    if outcome == Outcome::Transition {
                        record(tx, &inner.audit, &node, &event)?;
                    }
                }
                position = position.after(&event);
            }
            store::nodes::set_cursor(tx, &node, position.cursor, clock::now_micros())?;
            Ok(position)
        })
        .await
}

/// Before the commit: what is applied again after a crash is recorded twice, rather than not at all.
fn record(conn: &Connection, audit: &Audit, node: &str, event: &PhaseEvent) -> Result<(), ApiError> {
    let Some(ws) = workspaces::find(conn, &Target::Uid(event.workspace_uid.clone()))? else { return Ok(()) };
    if let Some(entry) = entries::phase(node, &ws.record, event) {
        audit.note(entry);
    }
    Ok(())
}

/// Applies one event. Events of unknown workspaces, and of workspaces that belong to another node, are left out.
pub fn one(conn: &Connection, node: &str, event: &PhaseEvent) -> Result<Outcome, ApiError> {
    let Some(mut ws) = workspaces::find(conn, &Target::Uid(event.workspace_uid.clone()))? else {
        tracing::debug!(node, workspace = event.workspace_uid, "phase of a workspace that is not ours");
        return Ok(Outcome::Stale);
    };
    if !ws.status.node.is_empty() && ws.status.node != node {
        tracing::warn!(
            node,
            workspace = event.workspace_uid,
            belongs_to = ws.status.node,
            "phase from another node"
        );
        return Ok(Outcome::Stale);
    }
    let event = PhaseEvent { node: node.to_owned(), workspace_name: ws.record.name.clone(), ..event.clone() };
    let outcome = status::apply(&mut ws.status, &event.workspace_name, &event);
    let of_this_run = event.run_id == ws.run_id();
    let newly_accepted = of_this_run && !ws.accepted;
    ws.accepted |= of_this_run;
    if outcome != Outcome::Stale || newly_accepted {
        if ws.status.state() == WorkspaceState::Stopped {
            ws.run_spec.clear();
        }
        workspaces::save(conn, &mut ws)?;
        if of_this_run && matches!(event.state(), WorkspaceState::Preparing | WorkspaceState::Running) {
            store::volumes::mounted(conn, &ws.record.uid, clock::now_micros())?;
        }
    }
    let says_more = of_this_run
        && !event.snapshot
        && !event.detail.is_empty()
        && event.state() == ws.status.state()
        && event.state() != WorkspaceState::InitRequest;
    if outcome != Outcome::Stale || says_more {
        journal::append(conn, &ws, Some(&event), false)?;
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64, snapshot: bool) -> PhaseEvent {
        PhaseEvent { revision, snapshot, ..Default::default() }
    }

    #[test]
    fn nobody_resumes_from_within_a_snapshot() {
        let mut at = Position { cursor: 5, snapshot: 0 };
        for revision in [40, 12, 30] {
            at = at.after(&event(revision, true));
        }
        assert_eq!((at.cursor, at.newest()), (5, 40));
        assert_eq!(at.after(&event(41, false)).cursor, 41);
    }

    #[test]
    fn live_events_move_the_cursor() {
        let at = Position { cursor: 5, snapshot: 0 }.after(&event(6, false));
        assert_eq!(at.cursor, 6);
        assert_eq!(at.after(&event(6, false)).cursor, 6);
    }
}
