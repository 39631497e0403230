//! Once a node's replay is through, compares what it has with what should be there.
//!
//! The stream says what happened on the node. It cannot say that a start never arrived there, that the node has
//! forgotten a run, or that it still works on a run which we have given up.

use std::{collections::HashMap, sync::Arc, time::Duration};

use cordium_proto::v1::{
    Failure, ListNodeWorkspacesRequest, PhaseEvent, StopRequest, StoppingReason, WorkspaceState, failure,
};
use tonic::Status;

use crate::{
    clock,
    control::start,
    core::Core,
    error::ApiError,
    names::Target,
    nodes::{NodeHandle, apply, apply::Position},
    store::{self, workspaces},
};

const ANSWER: Duration = Duration::from_secs(15);
/// A start is sent again when its node has not shown it for this long.
const PATIENCE_MICROS: i64 = 2_000_000;

/// What the node had at one moment, and what we knew it to have before that moment.
pub struct Listing {
    pub revision: u64,
    items: HashMap<String, PhaseEvent>,
    accepted_before: Vec<(String, String)>,
}

impl Listing {
    pub async fn take(core: &Core, node: &NodeHandle) -> Result<Self, ApiError> {
        let name = node.name.clone();
        let active = core.store.read(move |conn| workspaces::active_on(conn, &name)).await?;
        let accepted_before = active
            .into_iter()
            .filter(|ws| ws.accepted)
            .map(|ws| (ws.run_id().to_owned(), ws.record.uid))
            .collect();
        let mut client = node.client();
        let answer = in_time(client.list(ListNodeWorkspacesRequest {}))
            .await
            .map_err(|status| ApiError::from_node(&node.name, status))?
            .into_inner();
        let items = answer.items.into_iter().map(|item| (item.workspace_uid.clone(), item)).collect();
        Ok(Self { revision: answer.revision, items, accepted_before })
    }

    /// Brings the store in line, and the node where it lags behind the store. States are left to the stream, which
    /// will tell them all. Where its position has not come up to the listing's, that is because the newest revisions
    /// belong to what has been deleted since.
    pub async fn reconcile(
        self,
        core: &Arc<Core>,
        node: &Arc<NodeHandle>,
        position: Position,
    ) -> Result<Position, ApiError> {
        let through = position.newest() >= self.revision;
        let name = node.name.clone();
        let (position, left_over) = core
            .store
            .write(move |tx| {
                for (run_id, uid) in &self.accepted_before {
                    let known = self.items.get(uid).filter(|item| item.run_id == *run_id);
                    if known.is_none() {
                        lose(tx, &name, uid, run_id, self.items.get(uid))?;
                    }
                }
                let mut left_over = Vec::new();
                for item in self.items.values() {
                    if through && is_left_over(tx, item)? {
                        left_over.push(item.clone());
                    }
                }
                if !through {
                    return Ok((position, left_over));
                }
                let position = Position { cursor: position.newest(), snapshot: 0 };
                store::nodes::set_cursor(tx, &name, position.cursor, clock::now_micros())?;
                Ok((position, left_over))
            })
            .await?;
        for item in left_over {
            let (core, node) = (core.clone(), node.clone());
            core.clone().tasks.spawn(async move { stop_left_over(&core, &node, item).await });
        }
        resend_starts(core, node).await?;
        Ok(position)
    }
}

/// Ends on the node what is stopped here. Under the workspace's lock, so that no new run is hit.
async fn stop_left_over(core: &Core, node: &NodeHandle, item: PhaseEvent) {
    let _guard = core.locks.lock(&item.workspace_uid).await;
    if !core.store.lookup(|conn| is_left_over(conn, &item)).unwrap_or(false) {
        return;
    }
    tracing::warn!(node = node.name, workspace = item.workspace_uid, "stopping a run that was given up here");
    let request = StopRequest {
        workspace_uid: item.workspace_uid,
        reason: StoppingReason::Cluster.into(),
        force: true,
    };
    let mut client = node.client();
    if let Err(status) = in_time(client.stop(request)).await {
        tracing::warn!(node = node.name, error = status.message(), "could not stop it");
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = |_| Err(Status::deadline_exceeded(format!("no answer within {} s", ANSWER.as_secs())));
    tokio::time::timeout(ANSWER, call).await.unwrap_or_else(silent)
}

/// The node runs what is stopped here, and it is the same run.
fn is_left_over(conn: &rusqlite::Connection, item: &PhaseEvent) -> Result<bool, ApiError> {
    let found = workspaces::find(conn, &Target::Uid(item.workspace_uid.clone()))?;
    Ok(found.is_some_and(|ws| {
        ws.status.state() == WorkspaceState::Stopped
            && item.state() != WorkspaceState::Stopped
            && ws.run_id() == item.run_id
    }))
}

/// The node had accepted this run and does not know it any more.
fn lose(
    conn: &rusqlite::Connection,
    node: &str,
    uid: &str,
    run_id: &str,
    item: Option<&PhaseEvent>,
) -> Result<(), ApiError> {
    let still_current = workspaces::find(conn, &Target::Uid(uid.to_owned()))?
        .is_some_and(|ws| ws.run_id() == run_id && ws.status.state() != WorkspaceState::Stopped);
    if !still_current {
        return Ok(());
    }
    tracing::warn!(node, workspace = uid, run = run_id, "the node has lost a run");
    let event = PhaseEvent {
        failure: Some(Failure {
            message: format!("node {node} no longer knows this run; its state directory may be another one"),
            r#type: Some(failure::Type::Unknown(failure::Unit {})),
        }),
        has_storage: item.is_some_and(|item| item.has_storage),
        ..stopped(node, uid, run_id, StoppingReason::Error)
    };
    apply::one(conn, node, &event).map(|_| ())
}

/// The end of a run that its node will not tell.
pub fn stopped(node: &str, uid: &str, run_id: &str, reason: StoppingReason) -> PhaseEvent {
    PhaseEvent {
        node: node.to_owned(),
        workspace_uid: uid.to_owned(),
        run_id: run_id.to_owned(),
        state: WorkspaceState::Stopped.into(),
        at: Some(clock::now()),
        stopping_reason: reason.into(),
        ..Default::default()
    }
}

/// Sends again the starts that the node has not shown. They carry their run's id, so twice is once.
pub async fn resend_starts(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Result<(), ApiError> {
    let name = node.name.clone();
    let active = core.store.read(move |conn| workspaces::active_on(conn, &name)).await?;
    let overdue = |ws: &workspaces::Workspace| {
        let since = ws.status.last_initialized_at.as_ref().map_or(0, clock::micros);
        !ws.accepted && clock::now_micros() - since > PATIENCE_MICROS
    };
    for ws in active.into_iter().filter(overdue) {
        let core = core.clone();
        tracing::info!(node = node.name, workspace = ws.record.name, "sending a start again");
        core.clone().tasks.spawn(async move { start::resend(&core, &ws.record.uid).await });
    }
    Ok(())
}
