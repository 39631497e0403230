//! Delete. What is in use is kept; of a workspace the node's part goes first, then ours.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{DeleteRequest, DeleteResourceRequest, Kind};
use rusqlite::Connection;

use crate::{
    control::read,
    core::Core,
    error::ApiError,
    names::Target,
    specs,
    store::{
        journal,
        records::{self, Record},
        workspaces,
    },
};

/// A node may have to end the sandbox first.
const NODE_DELETE: Duration = Duration::from_secs(15 * 60);
const SETTLE: Duration = Duration::from_secs(2);

pub async fn delete(core: &Arc<Core>, request: DeleteResourceRequest) -> Result<(), ApiError> {
    let kind = request.kind();
    let target = read::target(kind, &request.r#ref, &request.space)?;
    if kind == Kind::Workspace {
        return workspace(core, target).await;
    }
    core.store
        .write(move |tx| {
            let record = records::get(tx, kind, &target)?;
            match kind {
                Kind::Space => space(tx, &record),
                Kind::Template => template(tx, &record),
                _ => secret(tx, &record),
            }?;
            records::delete(tx, &record.uid)
        })
        .await
}

fn space(conn: &Connection, record: &Record) -> Result<(), ApiError> {
    if let Some((kind, name)) = records::any_content(conn, &record.name)? {
        let kind = records::kind_name(kind);
        return Err(ApiError::state(
            format!("space {:?} is not empty: it has {kind} {name:?}", record.name),
            format!("cordium delete {kind} {name}.{}", record.name),
        ));
    }
    for template in records::list(conn, Kind::Template, &record.name)? {
        records::delete(conn, &template.uid)?;
    }
    Ok(())
}

fn template(conn: &Connection, record: &Record) -> Result<(), ApiError> {
    let users = workspaces::list(conn, &record.space, &record.name)?;
    if let Some(first) = users.first() {
        return Err(ApiError::state(
            format!(
                "template {:?} is used by {} workspace(s), {:?} among them",
                record.name,
                users.len(),
                first.record.name
            ),
            format!("cordium delete workspace {}.{}", first.record.name, record.space),
        ));
    }
    Ok(())
}

/// Workspaces that name the secret keep it; without it they could not start any more.
fn secret(conn: &Connection, record: &Record) -> Result<(), ApiError> {
    for ws in workspaces::list(conn, &record.space, "")? {
        let uses = specs::resolve(conn, &ws, &Default::default())
            .is_ok_and(|resolved| resolved.secrets.contains(&record.name));
        if uses {
            return Err(ApiError::state(
                format!("secret {:?} is used by workspace {:?}", record.name, ws.record.name),
                "remove it from the workspace's spec first, or update the secret's data",
            ));
        }
    }
    Ok(())
}

async fn workspace(core: &Arc<Core>, target: Target) -> Result<(), ApiError> {
    let uid = core.store.lookup(|conn| Ok(workspaces::get(conn, &target)?.record.uid))?;
    let inner = core.clone();
    core.detached(async move {
        let _guard = inner.locks.lock(&uid).await;
        let target = Target::Uid(uid.clone());
        let ws = inner.store.lookup(|conn| workspaces::get(conn, &target))?;
        if !ws.status.node.is_empty() {
            on_node(&inner, &ws.status.node, &uid).await?;
        }
        inner
            .store
            .write(move |tx| {
                let ws = workspaces::get(tx, &target)?;
                records::delete(tx, &ws.record.uid)?;
                journal::append(tx, &ws, None, true).map(|_| ())
            })
            .await
    })
    .await
}

async fn on_node(core: &Core, node: &str, uid: &str) -> Result<(), ApiError> {
    let node = core.node(node)?;
    let mut client = node.client();
    let request = DeleteRequest { workspace_uid: uid.to_owned() };
    match tokio::time::timeout(NODE_DELETE, client.delete(request)).await {
        Ok(answer) => answer.map_err(|status| ApiError::from_node(&node.name, status))?,
        Err(_) => {
            return Err(ApiError::NodeGone {
                node: node.name.clone(),
                message: "it did not finish the deletion in time".into(),
            });
        }
    };
    // So that watchers see the last phases before the deletion.
    node.settle(SETTLE).await;
    Ok(())
}
