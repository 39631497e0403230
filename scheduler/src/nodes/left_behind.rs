//! Deletes on a node what it was not told to delete while it was away, and what workspaces left there when they went
//! elsewhere.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::DeleteRequest;

use crate::{core::Core, error::ApiError, nodes::NodeHandle, store::left_behind};

/// A deletion that takes longer goes on at the node, and is asked for again.
const ANSWER: Duration = Duration::from_secs(15);

/// Begins with some of it; called again and again.
pub async fn delete_some(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Result<(), ApiError> {
    let name = node.name.clone();
    for uid in core.store.read(move |conn| left_behind::some(conn, &name)).await? {
        // Busy: with a request, or still with this.
        let Some(guard) = core.locks.try_lock(&uid) else { continue };
        let (inner, node) = (core.clone(), node.clone());
        core.tasks.spawn(async move {
            let _guard = guard;
            if let Err(error) = delete(&inner, &node, &uid).await {
                tracing::warn!(node = node.name, workspace = uid, %error, "could not delete what is left there");
            }
        });
    }
    Ok(())
}

/// Under the workspace's lock, so that no new run is hit.
async fn delete(core: &Core, node: &NodeHandle, uid: &str) -> Result<(), ApiError> {
    if !core.store.lookup(|conn| left_behind::contains(conn, &node.name, uid))? {
        return Ok(());
    }
    let mut client = node.client();
    let request = DeleteRequest { workspace_uid: uid.to_owned() };
    let Ok(answer) = tokio::time::timeout(ANSWER, client.delete(request)).await else { return Ok(()) };
    answer.map_err(|status| ApiError::from_node(&node.name, status))?;
    tracing::info!(node = node.name, workspace = uid, "deleted what was left of a workspace");
    let (name, uid) = (node.name.clone(), uid.to_owned());
    core.store.write(move |tx| left_behind::remove(tx, &name, &uid)).await
}
