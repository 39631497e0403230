//! Update. A running workspace may be updated; a new spec takes effect at its next start.

use std::{collections::BTreeMap, sync::Arc};

use cordium_proto::v1::{Kind, Resource, UpdateRequest};
use rusqlite::Connection;

use crate::{
    clock,
    control::{check_display_name, read, secrets, volumes},
    core::Core,
    error::ApiError,
    names::Target,
    nodes, specs,
    status::is_active,
    store::{self, journal, records, workspaces},
};

pub async fn update(core: &Arc<Core>, request: UpdateRequest) -> Result<Resource, ApiError> {
    let kind = request.kind();
    let target = read::target(kind, &request.r#ref, &request.space)?;
    if let Some(name) = &request.display_name {
        check_display_name(name)?;
    }
    let spec = request.spec_json.as_deref().map(|text| specs::canonical(kind, text)).transpose()?;
    match (&request.secret_data, kind) {
        (Some(data), Kind::Secret) => secrets::check_data(data)?,
        (Some(_), _) => return Err(ApiError::invalid("secret_data: only secrets have data")),
        (None, _) => {}
    }
    let cipher = core.cipher.clone();
    let (mut resource, runs) = core
        .store
        .write(move |tx| {
            let mut record = records::get(tx, kind, &target)?;
            if let Some(name) = request.display_name {
                record.display_name = name;
            }
            if let Some(spec) = spec {
                if kind == Kind::Volume {
                    volumes::check_change(&record.spec, &spec)?;
                }
                record.spec = match kind {
                    Kind::Space => specs::space_with_egress(&spec, Some(&record.spec))?,
                    _ => spec,
                };
            }
            record.updated_at = clock::now_micros();
            records::update(tx, &record)?;
            let mut runs = Vec::new();
            if let Some(data) = request.secret_data {
                secrets::put(tx, &cipher, &record, &data)?;
                runs = secrets::changed(tx, &record)?;
                if !runs.is_empty() {
                    secrets::check_for_runs(tx, &record, &data)?;
                }
            }
            let resource = match kind {
                Kind::Workspace => workspace(tx, &record.uid),
                Kind::Volume => store::volumes::of_record(tx, record)?.to_resource(tx),
                _ => Ok(record.to_resource()),
            };
            Ok((resource?, runs))
        })
        .await?;
    let inner = core.clone();
    core.detached(async move { Ok(nodes::egress::tell_these(&inner, runs).await) }).await?;
    core.decorate(&mut resource);
    Ok(resource)
}

/// The new spec must hold together with its template and its secrets, as at creation.
fn workspace(conn: &Connection, uid: &str) -> Result<Resource, ApiError> {
    let mut ws = workspaces::get(conn, &Target::Uid(uid.to_owned()))?;
    if let Some(resolved) = specs::resolve_ahead(conn, &ws, &BTreeMap::new())? {
        specs::find_secrets(conn, &ws.record.space, &resolved.secrets)?;
        if !is_active(&ws.status) {
            ws.status.limit = Some(resolved.limit);
        }
        ws.status.shared_ports.retain(|shared| resolved.applications.contains(&shared.application_name));
    }
    workspaces::save(conn, &mut ws)?;
    journal::append(conn, &ws, None, false)?;
    Ok(ws.to_resource())
}
