//! StopWorkspace: passed to the node, whose phases then tell how it goes.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{
    PhaseEvent, Resource, StopRequest, StopWorkspaceRequest, StoppingReason, WorkspaceState,
};
use tonic::Code;

use crate::{
    core::Core,
    error::ApiError,
    names::{self, Target},
    nodes::{apply, reconcile},
    store::workspaces::{self, Workspace},
};

const ANSWER: Duration = Duration::from_secs(15);
const SETTLE: Duration = Duration::from_secs(2);

pub async fn stop(core: &Arc<Core>, request: StopWorkspaceRequest) -> Result<Resource, ApiError> {
    let target = names::parse_ref(&request.r#ref, &request.space)?;
    let uid = core.store.lookup(|conn| Ok(workspaces::get(conn, &target)?.record.uid))?;
    let inner = core.clone();
    core.detached(async move {
        let target = Target::Uid(uid.clone());
        let _guard = inner.locks.lock(&uid).await;
        let ws = inner.store.lookup(|conn| workspaces::get(conn, &target))?;
        if ws.status.state() == WorkspaceState::Stopped {
            return Err(ApiError::invalid(format!(
                "workspace {:?} is stopped already; there is nothing to stop",
                ws.record.name
            )));
        }
        on_node(&inner, &ws, request.force).await?;
        let mut resource = inner.store.lookup(|conn| workspaces::get(conn, &target))?.to_resource();
        inner.decorate(&mut resource);
        Ok(resource)
    })
    .await
}

async fn on_node(core: &Core, ws: &Workspace, force: bool) -> Result<(), ApiError> {
    match asked(core, ws, force).await {
        // Its node ends what it still has of the run when it is back: see `reconcile`.
        Err(error @ ApiError::NodeGone { .. }) if force || !ws.accepted => {
            tracing::warn!(workspace = ws.record.name, %error, "a run is given up");
            give_up(core, ws).await
        }
        other => other.map_err(|error| error.stranded(&ws.record.name, "cordium stop")),
    }
}

async fn asked(core: &Core, ws: &Workspace, force: bool) -> Result<(), ApiError> {
    let node = core.node(&ws.status.node)?;
    let request =
        StopRequest { workspace_uid: ws.record.uid.clone(), reason: StoppingReason::Api.into(), force };
    let mut client = node.client();
    let answer = match tokio::time::timeout(ANSWER, client.stop(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(tonic::Status::deadline_exceeded(format!("no answer within {} s", ANSWER.as_secs()))),
    };
    match answer {
        Ok(accepted) => {
            node.wait_applied(accepted.into_inner().revision, SETTLE).await;
            Ok(())
        }
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
            // Perhaps it has stopped by itself, and the news is on its way.
            node.settle(SETTLE).await;
            let target = Target::Uid(ws.record.uid.clone());
            if core.store.lookup(|conn| workspaces::get(conn, &target))?.accepted {
                return Ok(());
            }
            // The start never arrived, and now it will not be sent again.
            give_up(core, ws).await
        }
        Err(status) => Err(ApiError::from_node(&node.name, status)),
    }
}

/// Ends the run here, without its node.
async fn give_up(core: &Core, ws: &Workspace) -> Result<(), ApiError> {
    let node = ws.status.node.clone();
    let event = PhaseEvent {
        // What a run has begun to write stays where it is.
        has_storage: ws.accepted || ws.status.last_stopped_at.is_some(),
        ..reconcile::stopped(&node, &ws.record.uid, ws.run_id(), StoppingReason::Api)
    };
    core.store.write(move |tx| apply::one(tx, &node, &event).map(|_| ())).await
}
