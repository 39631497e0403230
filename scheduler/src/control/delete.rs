//! Delete. What is in use is kept; of a workspace the node's part goes first, then ours.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{DeleteRequest, DeleteResourceRequest, Kind};
use rusqlite::Connection;

use crate::{
    control::{read, secrets, volumes},
    core::Core,
    error::ApiError,
    names::Target,
    nodes, specs,
    store::{
        journal,
        left_behind::Left,
        records::{self, Record},
        workspaces::{self, Workspace},
    },
};

/// A node may have to end the sandbox first.
const NODE_DELETE: Duration = Duration::from_secs(15 * 60);
const FORCED_DELETE: Duration = Duration::from_secs(30);
const SETTLE: Duration = Duration::from_secs(2);

/// Returns what is left behind, in words.
pub async fn delete(core: &Arc<Core>, request: DeleteResourceRequest) -> Result<Vec<String>, ApiError> {
    let kind = request.kind();
    let target = read::target(kind, &request.r#ref, &request.space)?;
    if kind == Kind::Workspace {
        return workspace(core, target, request.force).await;
    }
    if request.force && kind != Kind::Secret {
        return Err(ApiError::invalid(format!(
            "force: has no meaning when a {} is deleted",
            records::kind_name(kind)
        )));
    }
    if kind == Kind::Volume {
        return volumes::delete(core, target).await;
    }
    let runs = core
        .store
        .write(move |tx| {
            let record = records::get(tx, kind, &target)?;
            let mut runs = Vec::new();
            match kind {
                Kind::Space => space(tx, &record)?,
                Kind::Template => template(tx, &record)?,
                _ if request.force => runs = secrets::changed(tx, &record)?,
                _ => secret(tx, &record)?,
            }
            records::delete(tx, &record.uid)?;
            Ok(runs)
        })
        .await?;
    let inner = core.clone();
    core.detached(async move { Ok(nodes::egress::tell_these(&inner, runs).await) }).await
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
        let named = match specs::resolve_ahead(conn, &ws, &Default::default()) {
            Ok(Some(resolved)) => resolved.secrets,
            // As far as its own spec tells: the rest is known only when it starts.
            _ => cordium_spec::secret_names(&cordium_spec::parse_workspace_json(&ws.record.spec)?),
        };
        if named.contains(&record.name) {
            return Err(ApiError::state(
                format!("secret {:?} is used by workspace {:?}", record.name, ws.record.name),
                "remove it from the workspace's spec first, or update the secret's data; with --force \
                 running workspaces lose it from their requests at once, keep it where it is in their environment, and \
                 what names it cannot start any more",
            ));
        }
    }
    Ok(())
}

async fn workspace(core: &Arc<Core>, target: Target, force: bool) -> Result<Vec<String>, ApiError> {
    let uid = core.store.lookup(|conn| Ok(workspaces::get(conn, &target)?.record.uid))?;
    let inner = core.clone();
    core.detached(async move {
        let _guard = inner.locks.lock(&uid).await;
        let target = Target::Uid(uid.clone());
        let ws = inner.store.lookup(|conn| workspaces::get(conn, &target))?;
        let left = from_node(&inner, &ws, force).await?;
        let node = left.is_some().then(|| ws.last_node.clone());
        inner
            .store
            .write(move |tx| {
                let ws = workspaces::get(tx, &target)?;
                records::delete(tx, &ws.record.uid)?;
                if let Some(node) = node {
                    Left::Workspace.put(tx, &node, &ws.record.uid)?;
                }
                journal::append(tx, &ws, None, true).map(|_| ())
            })
            .await?;
        Ok(left.into_iter().collect())
    })
    .await
}

/// Has the node remove its part. Says what is left there, if the workspace may be forgotten all the same.
async fn from_node(core: &Core, ws: &Workspace, force: bool) -> Result<Option<String>, ApiError> {
    if ws.last_node.is_empty() {
        return Ok(None);
    }
    let Err(error) = on_node(core, &ws.last_node, &ws.record.uid, force).await else { return Ok(None) };
    let name = &ws.record.name;
    // Only a record and a log are left of what is bound to no node.
    if force || (ws.status.node.is_empty() && matches!(error, ApiError::NodeGone { .. })) {
        tracing::warn!(workspace = name, node = ws.last_node, %error, "a workspace is forgotten with a part left");
        return Ok(Some(format!(
            "{error}; what is left of workspace {name} on node {} is deleted when it answers again",
            ws.last_node
        )));
    }
    Err(error.stranded(name, "cordium delete workspace"))
}

async fn on_node(core: &Core, node: &str, uid: &str, force: bool) -> Result<(), ApiError> {
    let node = core.node(node)?;
    let gone = |message: String| ApiError::NodeGone { node: node.name.clone(), message };
    let view = node.view();
    if force && !view.reachable {
        return Err(gone(view.error));
    }
    let mut client = node.client();
    let request = DeleteRequest { workspace_uid: uid.to_owned() };
    let limit = if force { FORCED_DELETE } else { NODE_DELETE };
    match tokio::time::timeout(limit, client.delete(request)).await {
        Ok(answer) => answer.map_err(|status| ApiError::from_node(&node.name, status))?,
        Err(_) => return Err(gone(format!("it did not finish the deletion within {} s", limit.as_secs()))),
    };
    // So that watchers see the last phases before the deletion.
    node.settle(SETTLE).await;
    Ok(())
}
