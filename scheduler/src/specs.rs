//! The door to the schema: canonical specs for the store, merged ones for a start.

use std::collections::{BTreeMap, BTreeSet};

use cordium_proto::v1::{Kind, Limit};
use cordium_spec::{DefaultAction, LimitDefaults, WorkspaceSpec};
use rusqlite::Connection;
use serde::Serialize;

use crate::{
    control::volumes,
    error::ApiError,
    names::Target,
    store::{
        records::{self, Record},
        volumes::Volume,
        workspaces::Workspace,
    },
};

/// Strictly parsed and written out again; an empty text is an empty spec.
pub fn canonical(kind: Kind, text: &str) -> Result<String, ApiError> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    match kind {
        Kind::Space => to_json(&cordium_spec::parse_space_json(text)?),
        Kind::Template => to_json(&cordium_spec::parse_template_json(text)?),
        Kind::Workspace => to_json(&cordium_spec::parse_workspace_json(text)?),
        Kind::Volume => to_json(&cordium_spec::parse_volume_json(text)?),
        Kind::Secret if text == "{}" => Ok(text.to_owned()),
        Kind::Secret => Err(ApiError::invalid("spec_json: a secret has no spec; give secret_data")),
        Kind::Unset => {
            Err(ApiError::invalid("kind: was unset; allowed: space, template, workspace, secret, volume"))
        }
    }
}

/// A space that says nothing of egress keeps what it had. One that is new denies: who wants more says so.
pub fn space_with_egress(new: &str, before: Option<&str>) -> Result<String, ApiError> {
    let mut space = cordium_spec::parse_space_json(new)?;
    let action = &mut space.runtime.network.egress.default_action;
    if *action == DefaultAction::DefaultActionUnset {
        *action = match before {
            Some(before) => cordium_spec::parse_space_json(before)?.runtime.network.egress.default_action,
            None => DefaultAction::Deny,
        };
    }
    to_json(&space)
}

/// What a workspace comes to with its template, its space and these vars.
pub struct Resolved {
    pub json: String,
    pub limit: Limit,
    pub secrets: BTreeSet<String>,
    /// Whether some of them are put on requests.
    pub has_credentials: bool,
    pub applications: BTreeSet<String>,
    /// Each once.
    pub volumes: Vec<Volume>,
}

pub fn resolve(
    conn: &Connection,
    ws: &Workspace,
    vars: &BTreeMap<String, String>,
) -> Result<Resolved, ApiError> {
    let space = records::space(conn, &ws.record.space)?;
    let named = Target::Named { space: ws.record.space.clone(), name: ws.template.clone() };
    let template = records::get(conn, Kind::Template, &named)?;
    let mut spec = cordium_spec::resolve(
        &cordium_spec::parse_template_json(&template.spec)?,
        &cordium_spec::parse_workspace_json(&ws.record.spec)?,
        &cordium_spec::parse_space_json(&space.spec)?,
        vars,
        &LimitDefaults::default(),
    )?;
    let volumes = volumes::resolve(conn, &ws.record.space, &mut spec)?;
    Ok(Resolved {
        json: to_json(&spec)?,
        limit: limit(&spec),
        secrets: cordium_spec::secret_names(&spec),
        has_credentials: !spec.runtime.network.credentials.is_empty(),
        applications: spec.applications.iter().map(|a| a.name.clone()).collect(),
        volumes,
    })
}

/// As [`resolve`], before a start: `None` when only the start's vars can complete the spec. The secrets and
/// volumes that the spec itself names are checked even then.
pub fn resolve_ahead(
    conn: &Connection,
    ws: &Workspace,
    vars: &BTreeMap<String, String>,
) -> Result<Option<Resolved>, ApiError> {
    match resolve(conn, ws, vars) {
        Ok(resolved) => Ok(Some(resolved)),
        Err(ApiError::Spec(error)) if error.wants_vars() => {
            let mut own = cordium_spec::parse_workspace_json(&ws.record.spec)?;
            volumes::resolve(conn, &ws.record.space, &mut own)?;
            find_secrets(conn, &ws.record.space, &cordium_spec::secret_names(&own))?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Finds every secret that is named, or says which one is missing.
pub fn find_secrets(
    conn: &Connection,
    space: &str,
    names: &BTreeSet<String>,
) -> Result<Vec<Record>, ApiError> {
    let find = |name: &String| {
        let target = Target::Named { space: space.to_owned(), name: name.clone() };
        records::find(conn, Kind::Secret, &target)?.ok_or_else(|| {
            ApiError::invalid(format!(
                "fromSecret: was {name:?}; there is no such secret in space {space:?}, create it first"
            ))
        })
    };
    names.iter().map(find).collect()
}

/// Every dimension of a spec's limit, as it is told.
pub fn limit(spec: &WorkspaceSpec) -> Limit {
    let limit = spec.limit.effective();
    Limit {
        cpu_millicores: limit.cpu_millicores,
        memory_mib: limit.memory_mib,
        swap_mib: limit.swap_mib,
        storage_mib: limit.storage_mib,
        inodes: limit.inodes,
        pids: limit.pids,
        io_weight: limit.io_weight,
        open_files: limit.open_files,
        inotify_instances: limit.inotify_instances,
        inotify_watches: limit.inotify_watches,
        user_namespaces: limit.user_namespaces,
    }
}

pub fn to_json(value: &impl Serialize) -> Result<String, ApiError> {
    serde_json::to_string(value).map_err(|e| ApiError::Corrupt {
        what: "spec",
        of: "a resource".into(),
        why: e.to_string(),
    })
}
