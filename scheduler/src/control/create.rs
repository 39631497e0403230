//! Create. All checks and the insert are one transaction: with an error nothing is created.

use std::{collections::BTreeMap, sync::Arc};

use cordium_proto::v1::{CreateRequest, Kind, Resource};
use rusqlite::Connection;

use crate::{
    clock,
    control::{check_display_name, check_labels, secrets, start, volumes},
    core::Core,
    error::ApiError,
    names::{self, DEFAULT, Target},
    specs, status,
    store::{
        self, journal,
        records::{self, Record},
        workspaces::{self, Workspace},
    },
};

/// `user` is who asks.
pub async fn create(core: &Arc<Core>, request: CreateRequest, user: String) -> Result<Resource, ApiError> {
    let kind = request.kind();
    check_display_name(&request.display_name)?;
    check_labels(&request.labels)?;
    let spec = specs::canonical(kind, &request.spec_json)?;
    check_fields(kind, &request)?;
    names::check_label("name", &request.name)?;
    let record = Record {
        uid: names::new_uid(),
        kind,
        space: String::new(),
        name: request.name.clone(),
        display_name: request.display_name.clone(),
        labels: request.labels.clone().into_iter().collect(),
        spec,
        created_at: clock::now_micros(),
        updated_at: clock::now_micros(),
    };
    if kind == Kind::Workspace {
        return workspace(core, record, request, user).await;
    }
    let (cipher, inner) = (core.cipher.clone(), core.clone());
    core.store
        .write(move |tx| {
            let mut record = record;
            match kind {
                Kind::Space => {
                    record.spec = specs::space_with_egress(&record.spec, None)?;
                    insert_space(tx, &record)?;
                }
                Kind::Template => {
                    record.space = ensure_space(tx, &request.space)?.name;
                    records::insert(tx, &record)?;
                }
                Kind::Volume => {
                    record.space = ensure_space(tx, &request.space)?.name;
                    volumes::create(tx, &inner, &record, &request.node)?;
                    return store::volumes::of_record(tx, record)?.to_resource(tx);
                }
                _ => {
                    record.space = ensure_space(tx, &request.space)?.name;
                    records::insert(tx, &record)?;
                    secrets::put(tx, &cipher, &record, &request.secret_data)?;
                }
            }
            Ok(record.to_resource())
        })
        .await
}

/// Refuses what has no meaning for the kind, rather than leaving it out silently.
fn check_fields(kind: Kind, request: &CreateRequest) -> Result<(), ApiError> {
    let started = kind == Kind::Workspace && request.start;
    let out_of_place = [
        ("space", kind == Kind::Space && !request.space.is_empty()),
        ("template", kind != Kind::Workspace && !request.template.is_empty()),
        ("start", kind != Kind::Workspace && request.start),
        ("secret_data", kind != Kind::Secret && !request.secret_data.is_empty()),
        ("vars", !started && !request.vars.is_empty()),
        ("node", kind != Kind::Volume && !request.node.is_empty()),
    ];
    if let Some((field, _)) = out_of_place.iter().find(|(_, wrong)| *wrong) {
        let kind = records::kind_name(kind);
        return Err(ApiError::invalid(format!("{field}: has no meaning when this {kind} is created")));
    }
    if kind == Kind::Secret { secrets::check_data(&request.secret_data) } else { Ok(()) }
}

async fn workspace(
    core: &Arc<Core>,
    record: Record,
    request: CreateRequest,
    user: String,
) -> Result<Resource, ApiError> {
    let vars: BTreeMap<_, _> = request.vars.clone().into_iter().collect();
    let (max, start) = (core.config.max_workspaces, request.start);
    let made = {
        let vars = vars.clone();
        core.store
            .write(move |tx| {
                let ws = insert_workspace(tx, record, &request, &vars, max)?;
                journal::append(tx, &ws, None, false)?;
                Ok(ws)
            })
            .await?
    };
    if !start {
        return Ok(made.to_resource());
    }
    let uid = made.record.uid;
    let (node, key) = (String::new(), String::new());
    let wish = start::Wish { target: Target::Uid(uid.clone()), vars, node, key, user };
    match start::start(core, wish).await {
        Ok(resource) => Ok(resource),
        // Never begun: as if it had not been created. What a node has refused stays, to be looked at.
        Err(error) => {
            core.store
                .write(move |tx| match workspaces::find(tx, &Target::Uid(uid))? {
                    Some(ws) if ws.run_id().is_empty() => {
                        records::delete(tx, &ws.record.uid)?;
                        journal::append(tx, &ws, None, true).map(|_| ())
                    }
                    _ => Ok(()),
                })
                .await?;
            Err(error)
        }
    }
}

fn insert_workspace(
    conn: &Connection,
    mut record: Record,
    request: &CreateRequest,
    vars: &BTreeMap<String, String>,
    max: u64,
) -> Result<Workspace, ApiError> {
    let existing = records::count(conn, Kind::Workspace)?;
    if existing >= max {
        return Err(ApiError::exhausted(
            format!("there are {existing} workspaces already; allowed: {max}"),
            "delete one with: cordium delete NAME",
        ));
    }
    let template = template_of(conn, request)?;
    record.space.clone_from(&template.space);
    let at = clock::timestamp(record.created_at);
    let mut ws = Workspace {
        status: status::initial(&record.space, &template.name, at),
        template: template.name,
        record,
        run_spec: String::new(),
        accepted: true,
        last_node: String::new(),
        revision: 0,
    };
    if let Some(resolved) = specs::resolve_ahead(conn, &ws, vars)? {
        specs::find_secrets(conn, &ws.record.space, &resolved.secrets)?;
        ws.status.limit = Some(resolved.limit);
    }
    workspaces::insert(conn, &ws)?;
    Ok(ws)
}

/// The template named, else the space's default one; a template's reference may carry the space.
fn template_of(conn: &Connection, request: &CreateRequest) -> Result<Record, ApiError> {
    if request.template.is_empty() {
        let space = ensure_space(conn, &request.space)?;
        return ensure_default_template(conn, &space.name);
    }
    match names::parse_ref(&request.template, &request.space)? {
        Target::Named { space, name } if name == DEFAULT => {
            let space = ensure_space(conn, &space)?;
            ensure_default_template(conn, &space.name)
        }
        target => {
            let template = records::get(conn, Kind::Template, &target)?;
            if !request.space.is_empty() && template.space != request.space {
                return Err(ApiError::invalid(format!(
                    "template: {:?} lies in space {:?}, not in {:?}",
                    request.template, template.space, request.space
                )));
            }
            Ok(template)
        }
    }
}

/// The space of this name; the default one is made on first use.
pub fn ensure_space(conn: &Connection, name: &str) -> Result<Record, ApiError> {
    let name = if name.is_empty() { DEFAULT } else { name };
    let target = match names::parse_space_ref(name)? {
        uid @ Target::Uid(_) => uid,
        named => match records::find(conn, Kind::Space, &named)? {
            None if name == DEFAULT => {
                let space = blank(Kind::Space, "", DEFAULT);
                insert_space(conn, &space)?;
                return Ok(space);
            }
            _ => named,
        },
    };
    records::get(conn, Kind::Space, &target)
}

/// Every space has a default template from the start.
fn insert_space(conn: &Connection, space: &Record) -> Result<(), ApiError> {
    records::insert(conn, space)?;
    ensure_default_template(conn, &space.name).map(|_| ())
}

fn ensure_default_template(conn: &Connection, space: &str) -> Result<Record, ApiError> {
    let target = Target::Named { space: space.to_owned(), name: DEFAULT.to_owned() };
    if let Some(found) = records::find(conn, Kind::Template, &target)? {
        return Ok(found);
    }
    let template = blank(Kind::Template, space, DEFAULT);
    records::insert(conn, &template)?;
    Ok(template)
}

fn blank(kind: Kind, space: &str, name: &str) -> Record {
    let now = clock::now_micros();
    Record {
        uid: names::new_uid(),
        kind,
        space: space.to_owned(),
        name: name.to_owned(),
        display_name: String::new(),
        labels: BTreeMap::new(),
        spec: "{}".to_owned(),
        created_at: now,
        updated_at: now,
    }
}
