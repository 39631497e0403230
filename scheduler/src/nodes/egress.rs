//! Tells a node of policies and credentials that it was not told of while it was away, or did not take.

use std::sync::Arc;

use tonic::Code;

use crate::{
    control::egress,
    core::Core,
    error::ApiError,
    names::Target,
    nodes::NodeHandle,
    status::is_active,
    store::{self, workspaces},
};

/// Begins with some of them; called again and again.
pub async fn tell_some(core: &Arc<Core>, node: &NodeHandle) -> Result<(), ApiError> {
    let name = node.name.clone();
    for (uid, run_id) in core.store.read(move |conn| store::egress::some(conn, &name)).await? {
        // Busy: with a request, or still with this.
        let Some(guard) = core.locks.try_lock(&uid) else { continue };
        let inner = core.clone();
        core.tasks.spawn(async move {
            let _guard = guard;
            if let Err(error) = tell(&inner, &uid, &run_id).await {
                tracing::warn!(workspace = uid, %error, "the run goes on with its old egress policy");
            }
        });
    }
    Ok(())
}

/// Those that were just noted, at once and one after the other. What a node does not take it is told again.
pub async fn tell_these(core: &Arc<Core>, runs: Vec<(String, String)>) -> Vec<String> {
    let mut failed = Vec::new();
    for (uid, run_id) in runs {
        let _guard = core.locks.lock(&uid).await;
        if let Err(error) = tell(core, &uid, &run_id).await {
            tracing::warn!(workspace = uid, %error, "the run goes on with its old credentials");
            failed.push(format!(
                "workspace {uid} goes on with the old value until its node takes the new one: {error}"
            ));
        }
    }
    failed
}

/// Under the lock of the workspace.
async fn tell(core: &Core, uid: &str, run_id: &str) -> Result<(), ApiError> {
    let target = Target::Uid(uid.to_owned());
    let Some(ws) = core.store.lookup(|conn| workspaces::find(conn, &target))? else { return Ok(()) };
    if is_active(&ws.status) && ws.run_id() == run_id {
        let policy = cordium_spec::parse_resolved_json(&ws.run_spec)?.runtime.network.egress;
        match egress::tell(core, &ws, &crate::specs::to_json(&policy)?).await {
            Ok(true) => tracing::info!(workspace = uid, "its node goes by its egress policy now"),
            // Its sandbox is being made. Were the supervisor to end before that, it would not know the values any more.
            Ok(false) => return Ok(()),
            // The run has ended, and the news is on its way.
            Err(ApiError::Node(status))
                if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    let uid = uid.to_owned();
    core.store.write(move |tx| store::egress::remove(tx, &uid)).await
}
