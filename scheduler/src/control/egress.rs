//! What a workspace may reach: in its spec, and in its run. The spec is durable before the node is told.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cordium_proto::v1::{EgressPolicy, GetEgressRequest, SetEgressRequest, SetNodeEgressRequest};
use cordium_spec::Egress;
use rusqlite::Connection;

use crate::{
    clock,
    control::secrets,
    core::Core,
    error::{ApiError, describe},
    names::{self, Target},
    specs,
    status::is_active,
    store::{
        self, journal, records,
        workspaces::{self, Workspace},
    },
};

const ANSWER: Duration = Duration::from_secs(15);

pub async fn get(core: &Arc<Core>, request: GetEgressRequest) -> Result<EgressPolicy, ApiError> {
    let target = names::parse_ref(&request.r#ref, &request.space)?;
    core.store.read(move |conn| policy(conn, &workspaces::get(conn, &target)?)).await
}

pub async fn set(core: &Arc<Core>, request: SetEgressRequest) -> Result<EgressPolicy, ApiError> {
    let target = names::parse_ref(&request.r#ref, &request.space)?;
    let egress = cordium_spec::parse_egress(&request.egress_json)?;
    let uid = core.store.lookup(|conn| Ok(workspaces::get(conn, &target)?.record.uid))?;
    let inner = core.clone();
    core.detached(async move {
        // A start and a stop wait until the node has been told.
        let _guard = inner.locks.lock(&uid).await;
        let of = uid.clone();
        let (ws, mut policy) = inner.store.write(move |tx| replace(tx, &of, egress)).await?;
        if is_active(&ws.status) {
            match tell(&inner, &ws, &policy.run_json).await {
                Ok(in_force) => {
                    policy.in_force = in_force;
                    if in_force {
                        inner.store.write(move |tx| store::egress::remove(tx, &uid)).await?;
                    }
                }
                Err(error) => policy.warnings.push(format!(
                    "the policy is stored, but the run goes on with the old one until its node takes it: {error}"
                )),
            }
        }
        Ok(policy)
    })
    .await
}

/// The new section in the workspace's spec, and in that of its run.
fn replace(conn: &Connection, uid: &str, egress: Egress) -> Result<(Workspace, EgressPolicy), ApiError> {
    let target = Target::Uid(uid.to_owned());
    let mut ws = workspaces::get(conn, &target)?;
    let mut own = cordium_spec::parse_workspace_json(&ws.record.spec)?;
    own.runtime.network.egress = egress;
    ws.record.spec = specs::to_json(&own)?;
    ws.record.updated_at = clock::now_micros();
    records::update(conn, &ws.record)?;
    if is_active(&ws.status) {
        // Its run was given vars; without them it may not resolve.
        let vars: BTreeMap<String, String> = ws.status.run.iter().flat_map(|run| run.vars.clone()).collect();
        let merged = merged(conn, &ws, &vars)?.ok_or_else(|| {
            ApiError::invalid("the spec and its template do not come to a whole with the vars of this run")
        })?;
        let mut run = cordium_spec::parse_resolved_json(&ws.run_spec)?;
        run.runtime.network.egress = merged;
        ws.run_spec = specs::to_json(&run)?;
        cordium_spec::parse_resolved_json(&ws.run_spec)?;
        store::egress::put(conn, uid, ws.run_id())?;
    } else {
        // It must hold together with its template's, as at creation.
        merged(conn, &ws, &BTreeMap::new())?;
    }
    workspaces::save(conn, &mut ws)?;
    journal::append(conn, &ws, None, false)?;
    let policy = policy(conn, &ws)?;
    Ok((ws, policy))
}

fn merged(
    conn: &Connection,
    ws: &Workspace,
    vars: &BTreeMap<String, String>,
) -> Result<Option<Egress>, ApiError> {
    let Some(resolved) = specs::resolve_ahead(conn, ws, vars)? else { return Ok(None) };
    Ok(Some(cordium_spec::parse_resolved_json(&resolved.json)?.runtime.network.egress))
}

fn policy(conn: &Connection, ws: &Workspace) -> Result<EgressPolicy, ApiError> {
    let own = cordium_spec::parse_workspace_json(&ws.record.spec)?.runtime.network.egress;
    let json = |egress: Option<Egress>| egress.map(|egress| specs::to_json(&egress)).transpose();
    let run = match is_active(&ws.status) {
        true => Some(cordium_spec::parse_resolved_json(&ws.run_spec)?.runtime.network.egress),
        false => None,
    };
    Ok(EgressPolicy {
        egress_json: specs::to_json(&own)?,
        merged_json: json(merged(conn, ws, &BTreeMap::new())?)?.unwrap_or_default(),
        run_json: json(run)?.unwrap_or_default(),
        ..EgressPolicy::default()
    })
}

/// With the credentials as they are now. Says whether the run goes by it.
pub async fn tell(core: &Core, ws: &Workspace, egress_json: &str) -> Result<bool, ApiError> {
    let node = core.node(&ws.status.node)?;
    let secrets = core.store.lookup(|conn| secrets::of_run(conn, &core.cipher, ws))?;
    let request = SetNodeEgressRequest {
        secrets,
        workspace_uid: ws.record.uid.clone(),
        run_id: ws.run_id().to_owned(),
        egress_json: egress_json.to_owned(),
    };
    let mut client = node.client();
    match tokio::time::timeout(ANSWER, client.set_egress(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().in_force),
        Ok(Err(status)) => {
            tracing::warn!(
                node = node.name,
                workspace = ws.record.name,
                error = describe(&status),
                "egress not set"
            );
            Err(ApiError::from_node(&node.name, status))
        }
        Err(_) => Err(ApiError::NodeGone {
            node: node.name.clone(),
            message: format!("no answer within {} s", ANSWER.as_secs()),
        }),
    }
}
