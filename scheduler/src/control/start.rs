//! StartWorkspace: resolve, place, make it durable, then tell the node.
//!
//! Once the run is in the store it is promised: a node that does not answer gets the start again (with the same
//! run id) when it is back. Only an answer that refuses it ends the run.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use cordium_proto::v1::{
    Failure, PhaseEvent, Resource, StartRequest, StartWorkspaceRequest, StoppingReason, WorkspaceState,
    failure,
};
use rusqlite::Connection;
use tonic::Status;

use crate::{
    audit::entries,
    clock,
    control::{placeholders, secrets, volumes},
    core::Core,
    error::{ApiError, describe, unanswered},
    names::{self, Target},
    nodes::{apply, reconcile},
    placement, specs, status,
    store::{
        self, journal,
        left_behind::Left,
        workspaces::{self, Workspace},
    },
};

const ANSWER: Duration = Duration::from_secs(15);
const MAX_KEY: usize = 128;
/// Of all names and values of one start, as they stay in the run's record.
const MAX_VARS: usize = 64 << 10;

/// What is asked for.
pub struct Wish {
    pub target: Target,
    pub vars: BTreeMap<String, String>,
    pub node: String,
    pub key: String,
    /// Who asks.
    pub user: String,
}

impl Wish {
    pub fn new(request: StartWorkspaceRequest, user: String) -> Result<Self, ApiError> {
        if request.idempotency_key.len() > MAX_KEY {
            return Err(ApiError::invalid(format!("idempotency_key: allowed: at most {MAX_KEY} bytes")));
        }
        Ok(Self {
            target: names::parse_ref(&request.r#ref, &request.space)?,
            vars: request.vars.into_iter().collect(),
            node: request.node,
            key: request.idempotency_key,
            user,
        })
    }
}

pub async fn start(core: &Arc<Core>, wish: Wish) -> Result<Resource, ApiError> {
    if !wish.node.is_empty() && !core.nodes.contains_key(&wish.node) {
        let known: Vec<_> = core.nodes.keys().map(String::as_str).collect();
        return Err(ApiError::invalid(format!("node: was {:?}; allowed: {}", wish.node, known.join(", "))));
    }
    let uid = core.store.lookup(|conn| Ok(workspaces::get(conn, &wish.target)?.record.uid))?;
    let inner = core.clone();
    core.detached(async move {
        let _guard = inner.locks.lock(&uid).await;
        let core = inner.clone();
        let begun = inner.store.write(move |tx| begin(tx, &core, &uid, wish)).await?;
        let ws = match begun {
            Begun::Before(ws) => *ws,
            Begun::Now(ws, request) => send(&inner, *ws, *request).await?,
        };
        let mut resource = ws.to_resource();
        inner.decorate(&mut resource);
        Ok(resource)
    })
    .await
}

enum Begun {
    /// This key has started it already.
    Before(Box<Workspace>),
    Now(Box<Workspace>, Box<StartRequest>),
}

/// Everything that can be refused without asking the node, and the run's record.
fn begin(conn: &Connection, core: &Core, uid: &str, wish: Wish) -> Result<Begun, ApiError> {
    let mut ws = workspaces::get(conn, &Target::Uid(uid.to_owned()))?;
    if !wish.key.is_empty() && workspaces::run_of_key(conn, uid, &wish.key)?.is_some() {
        return Ok(Begun::Before(Box::new(ws)));
    }
    let name = ws.record.name.clone();
    if status::is_active(&ws.status) {
        let state = ws.status.state().short_name();
        return Err(ApiError::state(
            format!("workspace {name:?} is {state}; only a stopped one can be started"),
            format!("cordium stop {name}"),
        ));
    }
    let size: usize = wish.vars.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > MAX_VARS {
        return Err(ApiError::invalid(format!(
            "vars: have {size} bytes together; allowed: at most {MAX_VARS}"
        )));
    }
    let mut resolved = specs::resolve(conn, &ws, &wish.vars)?;
    let secrets = secrets::open(conn, &core.cipher, &ws.record.space, &resolved.secrets)?;
    if resolved.has_credentials {
        resolved.json = placeholders::fill(&resolved.json, &secrets)?;
    }
    let active = workspaces::count_active(conn)?;
    if active >= core.config.max_active {
        return Err(ApiError::exhausted(
            format!("{active} workspaces are active already; allowed: {}", core.config.max_active),
            "stop one with: cordium stop NAME",
        ));
    }
    volumes::check_free(conn, &ws, &resolved.volumes)?;
    let node = place(conn, core, &ws, &wish.node, &resolved)?;

    if !resolved.secrets.is_empty() {
        core.audit.append(entries::secrets(uid, &name, &ws.record.space, &resolved.secrets))?;
    }
    let run_id = names::new_uid();
    let before = ws.status.state;
    status::begin_run(&mut ws.status, &run_id, wish.vars.into_iter().collect(), clock::now());
    if let Some(run) = &mut ws.status.run {
        run.started_by = wish.user;
    }
    // A run that begins here must not be taken for what was left here; what is left elsewhere is of no use any more.
    Left::Workspace.remove(conn, &node, uid)?;
    if !ws.last_node.is_empty() && ws.last_node != node {
        Left::Workspace.put(conn, &ws.last_node, uid)?;
    }
    ws.status.node.clone_from(&node);
    ws.status.limit = Some(resolved.limit);
    ws.run_spec = resolved.json;
    ws.accepted = false;
    workspaces::save(conn, &mut ws)?;
    store::volumes::mount(conn, uid, &ws.status.node, &resolved.volumes)?;
    if !wish.key.is_empty() {
        workspaces::put_key(conn, uid, &wish.key, &run_id, clock::now_micros())?;
    }
    let phase = PhaseEvent {
        node,
        workspace_uid: uid.to_owned(),
        workspace_name: name,
        run_id,
        state: WorkspaceState::InitRequest.into(),
        last_state: before,
        at: ws.status.current_state_set_at,
        limit: ws.status.limit,
        ..Default::default()
    };
    journal::append(conn, &ws, Some(&phase), false)?;
    let request = request(&ws, secrets, &resolved.volumes);
    Ok(Begun::Now(Box::new(ws), Box::new(request)))
}

/// Storage ties a workspace to its node, and so do the volumes that it mounts.
fn place(
    conn: &Connection,
    core: &Core,
    ws: &Workspace,
    asked: &str,
    resolved: &specs::Resolved,
) -> Result<String, ApiError> {
    let held = ws.status.node.as_str();
    if !held.is_empty() && !asked.is_empty() && held != asked {
        return Err(ApiError::state(
            format!(
                "workspace {:?} has its storage on node {held:?}, it cannot start on {asked:?}",
                ws.record.name
            ),
            "leave the node out",
        ));
    }
    let tied = [held, asked].into_iter().find(|name| !name.is_empty());
    let tied = volumes::tied(&ws.record.name, tied, &resolved.volumes)?;
    placement::choose(&core.candidates(conn)?, &resolved.limit, core.config.overcommit, tied)
}

fn request(
    ws: &Workspace,
    secrets: std::collections::HashMap<String, bytes::Bytes>,
    volumes: &[store::volumes::Volume],
) -> StartRequest {
    StartRequest {
        workspace_uid: ws.record.uid.clone(),
        workspace_name: ws.record.name.clone(),
        space: ws.record.space.clone(),
        run_id: ws.run_id().to_owned(),
        spec_json: ws.run_spec.clone(),
        secrets,
        user: None,
        volumes: volumes::grants(volumes),
        started_by: ws.status.run.as_ref().map(|run| run.started_by.clone()).unwrap_or_default(),
        template: ws.template.clone(),
    }
}

/// Tells the node. Its silence is not a refusal.
async fn send(core: &Core, mut ws: Workspace, request: StartRequest) -> Result<Workspace, ApiError> {
    let node = core.node(&ws.status.node)?;
    let mut client = node.client();
    let refusal = match tokio::time::timeout(ANSWER, client.start(request)).await {
        Ok(Ok(_)) => return Ok(ws),
        Ok(Err(status)) if unanswered(&status) => {
            tracing::warn!(
                node = node.name,
                workspace = ws.record.name,
                error = describe(&status),
                "start not answered"
            );
            None
        }
        Ok(Err(status)) => Some(status),
        Err(_) => None,
    };
    match refusal {
        Some(status) => {
            refused(core, &ws, &status).await?;
            Err(ApiError::Node(Box::new(status)))
        }
        None => {
            let text =
                format!("node {} has not answered the start; it is sent again when it does", node.name);
            status::warn(&mut ws.status, &text);
            Ok(ws)
        }
    }
}

/// The run ends before it began; a later start may use the same key.
async fn refused(core: &Core, ws: &Workspace, status: &Status) -> Result<(), ApiError> {
    let (uid, run_id, node) = (ws.record.uid.clone(), ws.run_id().to_owned(), ws.status.node.clone());
    // A first start leaves the workspace free to go elsewhere.
    let has_storage = ws.status.last_stopped_at.is_some();
    let event = PhaseEvent {
        failure: Some(Failure {
            message: format!("node {node} refused the start: {}", status.message()),
            r#type: Some(failure::Type::StartupUnknown(failure::Unit {})),
        }),
        has_storage,
        ..reconcile::stopped(&node, &uid, &run_id, StoppingReason::Error)
    };
    core.store
        .write(move |tx| {
            apply::one(tx, &node, &event)?;
            workspaces::forget_key(tx, &uid, &run_id)
        })
        .await
}

/// Sends the current run's start again if its node still has not shown it.
pub async fn resend(core: &Arc<Core>, uid: &str) {
    let _guard = core.locks.lock(uid).await;
    let target = Target::Uid(uid.to_owned());
    let cipher = core.cipher.clone();
    let prepared = core
        .store
        .read(move |conn| {
            let Some(ws) = workspaces::find(conn, &target)? else { return Ok(None) };
            if ws.accepted || ws.status.state() != WorkspaceState::InitRequest {
                return Ok(None);
            }
            let mut spec = cordium_spec::parse_resolved_json(&ws.run_spec)?;
            let names = cordium_spec::secret_names(&spec);
            let secrets = secrets::open(conn, &cipher, &ws.record.space, &names)?;
            let volumes = volumes::resolve(conn, &ws.record.space, &mut spec)?;
            let request = request(&ws, secrets, &volumes);
            Ok(Some((ws, request)))
        })
        .await;
    let sent = match prepared {
        Ok(Some((ws, request))) => send(core, ws, request).await.map(|_| ()),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tracing::warn!(workspace = uid, error = %error, "start could not be sent again");
    }
}
