//! Deletes on a node what it was not told to delete while it was away, and what workspaces left there when they went
//! elsewhere.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{DeleteRequest, DeleteVolumeRequest};
use tonic::Status;

use crate::{core::Core, error::ApiError, nodes::NodeHandle, store::left_behind::Left};

/// A deletion that takes longer goes on at the node, and is asked for again.
const ANSWER: Duration = Duration::from_secs(15);

/// Begins with some of it; called again and again.
pub async fn delete_some(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Result<(), ApiError> {
    let name = node.name.clone();
    let some = |left: Left, name: String| async move {
        let found = core.store.read(move |conn| left.some(conn, &name)).await?;
        Ok::<_, ApiError>(found.into_iter().map(move |uid| (left, uid)))
    };
    let all = some(Left::Workspace, name.clone()).await?.chain(some(Left::Volume, name).await?);
    for (left, uid) in all {
        // Busy: with a request, or still with this.
        let Some(guard) = core.locks.try_lock(&uid) else { continue };
        let (inner, node) = (core.clone(), node.clone());
        core.tasks.spawn(async move {
            let _guard = guard;
            if let Err(error) = delete(&inner, &node, left, &uid).await {
                tracing::warn!(node = node.name, ?left, uid, %error, "could not delete what is left there");
            }
        });
    }
    Ok(())
}

/// Under the lock of what is deleted, so that no new run is hit.
pub async fn delete(core: &Core, node: &NodeHandle, left: Left, uid: &str) -> Result<(), ApiError> {
    if !core.store.lookup(|conn| left.contains(conn, &node.name, uid))? {
        return Ok(());
    }
    let answer = tokio::time::timeout(ANSWER, call(node, left, uid.to_owned())).await;
    let silent = |_| Err(Status::deadline_exceeded(format!("not done within {} s", ANSWER.as_secs())));
    answer.unwrap_or_else(silent).map_err(|status| ApiError::from_node(&node.name, status))?;
    tracing::info!(node = node.name, ?left, uid, "deleted what was left there");
    let (name, uid) = (node.name.clone(), uid.to_owned());
    core.store.write(move |tx| left.remove(tx, &name, &uid)).await
}

async fn call(node: &NodeHandle, left: Left, uid: String) -> Result<(), Status> {
    let mut client = node.client();
    match left {
        Left::Workspace => client.delete(DeleteRequest { workspace_uid: uid }).await.map(drop),
        Left::Volume => client.delete_volume(DeleteVolumeRequest { volume_uid: uid }).await.map(drop),
    }
}
