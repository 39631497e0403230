//! Calls on resources that several commands make.

use cordium_proto::v1::{
    CreateRequest, GetRequest, Kind as Proto, Resource, StartWorkspaceRequest, StopWorkspaceRequest,
    UpdateRequest, WorkspaceState,
};
use serde_json::Value;
use tonic::Code;

use crate::{
    client::Client,
    error::{CliError, CliResult, Doing as _},
    output,
    spec::{Kind, file::Doc},
};

pub async fn find(client: &Client, kind: Kind, name: &str, space: &str) -> CliResult<Option<Resource>> {
    let request =
        GetRequest { kind: Proto::from(kind).into(), r#ref: name.to_owned(), space: space.to_owned() };
    match client.control().get(request).await {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(CliError::from_status(&format!("get {} {name}", kind.word()), &status)),
    }
}

/// A workspace that must exist.
pub async fn workspace(client: &Client, name: &str, space: &str) -> CliResult<Resource> {
    find(client, Kind::Workspace, name, space).await?.ok_or_else(|| {
        CliError::new(format!("workspace {name} does not exist"))
            .hint("`cordium get workspaces` lists those that do; `cordium run NAME` creates one")
    })
}

pub fn state(resource: &Resource) -> WorkspaceState {
    resource.status.as_ref().map_or(WorkspaceState::Unknown, |s| s.state())
}

pub fn name(resource: &Resource) -> &str {
    resource.metadata.as_ref().map_or("", |m| &m.name)
}

pub fn uid(resource: &Resource) -> &str {
    resource.metadata.as_ref().map_or("", |m| &m.uid)
}

pub fn run_id(resource: &Resource) -> String {
    let run = resource.status.as_ref().and_then(|s| s.run.as_ref());
    run.map(|r| r.id.clone()).unwrap_or_default()
}

pub async fn create(
    client: &Client,
    doc: &Doc,
    space: &str,
    template: &str,
    start: bool,
) -> CliResult<Resource> {
    let request = CreateRequest {
        kind: Proto::from(doc.kind).into(),
        name: doc.name.clone(),
        display_name: doc.display_name.clone(),
        labels: doc.labels.clone().into_iter().collect(),
        space: space.to_owned(),
        spec_json: doc.spec.to_string(),
        template: template.to_owned(),
        start,
        ..CreateRequest::default()
    };
    let doing = format!("create {} {}", doc.kind.word(), doc.name);
    Ok(client.control().create(request).await.doing(doing)?.into_inner())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Created,
    Updated,
    Unchanged,
}

impl Change {
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Gives an existing resource this spec, if it differs from what it has.
pub async fn update(
    client: &Client,
    there: Resource,
    doc: &Doc,
    space: &str,
) -> CliResult<(Resource, Change)> {
    let has = serde_json::from_str::<Value>(&there.spec_json).unwrap_or_default();
    let has_title = there.metadata.as_ref().map_or("", |m| &m.display_name);
    let title =
        (!doc.display_name.is_empty() && doc.display_name != has_title).then(|| doc.display_name.clone());
    if has == doc.spec && title.is_none() {
        return Ok((there, Change::Unchanged));
    }
    let running = doc.kind == Kind::Workspace
        && !matches!(state(&there), WorkspaceState::Stopped | WorkspaceState::Unknown);
    let request = UpdateRequest {
        kind: Proto::from(doc.kind).into(),
        r#ref: uid(&there).to_owned(),
        space: space.to_owned(),
        display_name: title,
        spec_json: (has != doc.spec).then(|| doc.spec.to_string()),
        secret_data: None,
    };
    let doing = format!("update {} {}", doc.kind.word(), doc.name);
    let before = there.spec_json;
    let updated = client.control().update(request).await.doing(doing)?.into_inner();
    // The server may hold a canonical form: what it stores is the same as before when nothing changed.
    let change = if updated.spec_json == before { Change::Unchanged } else { Change::Updated };
    if running && change == Change::Updated {
        output::warning(&format!(
            "workspace {} is running: its new spec takes effect at the next start",
            doc.name
        ));
    }
    Ok((updated, change))
}

pub async fn start(
    client: &Client,
    workspace: &Resource,
    vars: &[(String, String)],
    node: &str,
) -> CliResult<Resource> {
    let request = StartWorkspaceRequest {
        r#ref: uid(workspace).to_owned(),
        space: String::new(),
        vars: vars.iter().cloned().collect(),
        node: node.to_owned(),
        idempotency_key: uuid::Uuid::new_v4().to_string(),
    };
    let doing = format!("start workspace {}", name(workspace));
    Ok(client.control().start_workspace(request).await.doing(doing)?.into_inner())
}

pub async fn stop(client: &Client, workspace: &Resource, force: bool) -> CliResult<Resource> {
    let request = StopWorkspaceRequest { r#ref: uid(workspace).to_owned(), space: String::new(), force };
    let doing = format!("stop workspace {}", name(workspace));
    Ok(client.control().stop_workspace(request).await.doing(doing)?.into_inner())
}
