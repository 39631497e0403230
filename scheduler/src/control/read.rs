//! Get, List and GetStatus.

use std::sync::Arc;

use cordium_proto::v1::{GetRequest, GetStatusResponse, Kind, ListRequest, ListResponse, Resource};

use crate::{
    core::Core,
    error::ApiError,
    names::{self, Target},
    status::MAX_LAST_RUNS,
    store::{journal, records, volumes, workspaces},
};

/// A list shows only so many runs of each workspace.
const RUNS_IN_LIST: usize = 5;

pub fn target(kind: Kind, reference: &str, space: &str) -> Result<Target, ApiError> {
    match kind {
        Kind::Unset => {
            Err(ApiError::invalid("kind: was unset; allowed: space, template, workspace, secret, volume"))
        }
        Kind::Space => names::parse_space_ref(reference),
        Kind::Template | Kind::Workspace | Kind::Secret | Kind::Volume => names::parse_ref(reference, space),
    }
}

pub async fn get(core: &Arc<Core>, request: GetRequest) -> Result<Resource, ApiError> {
    let kind = request.kind();
    let target = target(kind, &request.r#ref, &request.space)?;
    let mut resource = core
        .store
        .read(move |conn| match kind {
            Kind::Workspace => {
                let mut ws = workspaces::get(conn, &target)?;
                ws.status.last_runs = workspaces::last_runs(conn, &ws.record.uid, MAX_LAST_RUNS)?;
                Ok(ws.to_resource())
            }
            Kind::Volume => volumes::get(conn, &target)?.to_resource(conn),
            _ => records::get(conn, kind, &target).map(|r| r.to_resource()),
        })
        .await?;
    core.decorate(&mut resource);
    core.add_usage(std::slice::from_mut(&mut resource)).await;
    Ok(resource)
}

pub async fn list(core: &Arc<Core>, request: ListRequest) -> Result<ListResponse, ApiError> {
    let kind = request.kind();
    if kind == Kind::Unset {
        return Err(ApiError::invalid(
            "kind: was unset; allowed: space, template, workspace, secret, volume",
        ));
    }
    if !request.template.is_empty() && kind != Kind::Workspace {
        return Err(ApiError::invalid("template: only workspaces are listed by template"));
    }
    let mut items = core
        .store
        .read(move |conn| {
            if kind == Kind::Volume {
                let found = volumes::list(conn, &request.space)?;
                return found.iter().map(|volume| volume.to_resource(conn)).collect();
            }
            if kind != Kind::Workspace {
                let found = records::list(conn, kind, &request.space)?;
                return Ok(found.iter().map(records::Record::to_resource).collect());
            }
            let (space, template) = match request.template.split_once('.') {
                Some((template, space)) => (space, template),
                None => (request.space.as_str(), request.template.as_str()),
            };
            let mut items = Vec::new();
            for mut ws in workspaces::list(conn, space, template)? {
                ws.status.last_runs = workspaces::last_runs(conn, &ws.record.uid, RUNS_IN_LIST)?;
                items.push(ws.to_resource());
            }
            Ok(items)
        })
        .await?;
    items.iter_mut().for_each(|resource| core.decorate(resource));
    core.add_usage(&mut items).await;
    Ok(ListResponse { items })
}

pub async fn status(core: &Arc<Core>) -> Result<GetStatusResponse, ApiError> {
    let (revision, by_state) =
        core.store.read(|conn| Ok((journal::newest(conn)?, workspaces::count_by_state(conn)?))).await?;
    Ok(GetStatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: core.nodes.values().map(|node| node.to_status()).collect(),
        revision,
        workspaces_by_state: by_state
            .into_iter()
            .map(|(state, count)| (state.short_name().to_owned(), count))
            .collect(),
    })
}
