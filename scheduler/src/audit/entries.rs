//! What is recorded of each request: names, never values. Pure.

use std::collections::BTreeMap;

use cordium_audit::Entry;
use cordium_proto::v1::{
    CreateRequest, CreateTerminalRequest, CredentialUse, DeleteResourceRequest, Denial, EgressRecord,
    ExecStart, Kind, PhaseEvent, SetEgressRequest, SharePortRequest, StartWorkspaceRequest,
    StopWorkspaceRequest, StoppingReason, UpdateRequest, WorkspaceState,
    egress_record::{LeftOut, What},
};
use sha2::{Digest as _, Sha256};

use crate::{
    names,
    store::records::{Record, kind_name},
};

fn entry(actor: String, action: &str, object: String, detail: Vec<(&str, String)>) -> Entry {
    let present = detail.into_iter().filter(|(_, value)| !value.is_empty());
    let detail = present.map(|(key, value)| (key.to_owned(), value)).collect();
    Entry { actor, action: action.to_owned(), object, uid: String::new(), detail }
}

pub fn object(kind: Kind, name: &str, space: &str) -> String {
    let kind = kind_name(kind);
    match space {
        "" | names::DEFAULT => format!("{kind} {name}"),
        space => format!("{kind} {name}.{space}"),
    }
}

fn keys<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.sort_unstable();
    names.join(",")
}

fn flag(set: bool) -> String {
    if set { "true".into() } else { String::new() }
}

/// A spec may hold what is not for everybody; its hash tells whether it is the one that somebody has.
fn hash(spec: &str) -> String {
    if spec.is_empty() { String::new() } else { format!("sha256:{}", hex::encode(Sha256::digest(spec))) }
}

pub fn create(actor: String, request: &CreateRequest) -> Entry {
    let kind = request.kind();
    let detail = vec![
        ("template", request.template.clone()),
        ("spec", hash(&request.spec_json)),
        ("start", flag(request.start)),
        ("vars", keys(request.vars.keys())),
        ("node", request.node.clone()),
    ];
    let action = format!("{}.create", kind_name(kind));
    entry(actor, &action, object(kind, &request.name, &request.space), detail)
}

pub fn update(actor: String, request: &UpdateRequest) -> Entry {
    let kind = request.kind();
    let detail = vec![
        ("displayName", request.display_name.clone().unwrap_or_default()),
        ("spec", hash(request.spec_json.as_deref().unwrap_or_default())),
        ("data", flag(request.secret_data.is_some())),
    ];
    let action = format!("{}.update", kind_name(kind));
    entry(actor, &action, object(kind, &request.r#ref, &request.space), detail)
}

pub fn delete(actor: String, request: &DeleteResourceRequest) -> Entry {
    let kind = request.kind();
    let detail = vec![("force", flag(request.force))];
    entry(actor, &format!("{}.delete", kind_name(kind)), object(kind, &request.r#ref, &request.space), detail)
}

fn workspace(reference: &str, space: &str) -> String {
    object(Kind::Workspace, reference, space)
}

pub fn start(actor: String, request: &StartWorkspaceRequest) -> Entry {
    let detail = vec![
        ("vars", keys(request.vars.keys())),
        ("node", request.node.clone()),
        ("idempotencyKey", request.idempotency_key.clone()),
    ];
    entry(actor, "workspace.start", workspace(&request.r#ref, &request.space), detail)
}

pub fn stop(actor: String, request: &StopWorkspaceRequest) -> Entry {
    let detail = vec![("force", flag(request.force))];
    entry(actor, "workspace.stop", workspace(&request.r#ref, &request.space), detail)
}

pub fn share(actor: String, request: &SharePortRequest) -> Entry {
    let mode =
        if request.unshare { "none" } else { request.mode().as_str_name().trim_start_matches("MODE_") };
    let detail = vec![("application", request.application_name.clone()), ("mode", mode.to_owned())];
    entry(actor, "workspace.share", workspace(&request.r#ref, &request.space), detail)
}

pub fn egress(actor: String, request: &SetEgressRequest) -> Entry {
    let detail = vec![("policy", hash(&request.egress_json))];
    entry(actor, "workspace.egress", workspace(&request.r#ref, &request.space), detail)
}

/// The command is recorded, its variables' values and its input are not.
pub fn exec(actor: String, name: &str, uid: &str, start: &ExecStart) -> Entry {
    let detail = vec![
        ("command", start.command.join(" ")),
        ("root", flag(start.run_as_root)),
        ("workingDir", start.working_dir.clone()),
        ("env", keys(start.env.keys())),
    ];
    Entry { uid: uid.to_owned(), ..entry(actor, "workspace.exec", workspace(name, ""), detail) }
}

pub fn terminal(actor: String, name: &str, uid: &str, request: &CreateTerminalRequest) -> Entry {
    let detail = vec![("root", flag(request.run_as_root))];
    Entry { uid: uid.to_owned(), ..entry(actor, "workspace.terminal", workspace(name, ""), detail) }
}

/// A connection into a workspace.
pub fn forward(actor: String, name: &str, uid: &str, port: u32) -> Entry {
    let detail = vec![("port", port.to_string())];
    Entry { uid: uid.to_owned(), ..entry(actor, "workspace.forward", workspace(name, ""), detail) }
}

/// Secrets that a run is given.
pub fn secrets<'a>(
    uid: &str,
    name: &str,
    space: &str,
    secrets: impl IntoIterator<Item = &'a String>,
) -> Entry {
    let detail = vec![("secrets", keys(secrets))];
    let actor = "scheduler".to_owned();
    Entry { uid: uid.to_owned(), ..entry(actor, "secret.use", workspace(name, space), detail) }
}

/// A run that has come up or ended, as its node tells. Not what is on the way there.
pub fn phase(node: &str, of: &Record, event: &PhaseEvent) -> Option<Entry> {
    let action = match event.state() {
        WorkspaceState::Running => "workspace.running",
        WorkspaceState::Stopped => "workspace.stopped",
        _ => return None,
    };
    let reason = match event.stopping_reason() {
        StoppingReason::Unset => "",
        reason => reason.as_str_name().trim_start_matches("STOPPING_REASON_"),
    };
    let failure = event.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default();
    let detail = vec![("run", event.run_id.clone()), ("reason", reason.to_owned()), ("failure", failure)];
    let entry = entry(format!("node {node}"), action, workspace(&of.name, &of.space), detail);
    Some(Entry { uid: of.uid.clone(), ..entry })
}

/// What a workspace was refused outside, or which secret was put on its requests. `of` is not there when the workspace is
/// gone: then its uid has to do.
pub fn egress_record(node: &str, of: Option<&Record>, record: &EgressRecord) -> Option<Entry> {
    let (action, mut detail) = match record.what.as_ref()? {
        What::Denial(denial) => ("egress.denied", denial_detail(denial)),
        What::Use(used) => ("credential.use", use_detail(used)),
        What::LeftOut(kind) if *kind == LeftOut::Uses as i32 => ("credential.use.leftOut", Vec::new()),
        What::LeftOut(_) => ("egress.denied.leftOut", Vec::new()),
    };
    let several = |text: String| if record.count > 1 { text } else { String::new() };
    detail.extend([
        ("run", record.run_id.clone()),
        ("at", time(record.first_at.as_ref())),
        ("until", several(time(record.last_at.as_ref()))),
        ("count", record.count.to_string()),
    ]);
    let object = of.map_or_else(
        || workspace(&record.workspace_uid, ""),
        |record| workspace(&record.name, &record.space),
    );
    let entry = entry(format!("node {node}"), action, object, detail);
    Some(Entry { uid: record.workspace_uid.clone(), ..entry })
}

/// What a node could not tell in time: `anew` when its broker has begun anew, and what that had not told is not known.
pub fn egress_lost(node: &str, count: u64, anew: bool) -> Entry {
    let why = if anew { "the egress broker has begun anew" } else { "nobody took the records in time" };
    let count = if count > 0 { count.to_string() } else { "unknown".to_owned() };
    let detail = vec![("why", why.to_owned()), ("count", count)];
    entry(format!("node {node}"), "egress.lost", format!("node {node}"), detail)
}

fn denial_detail(denial: &Denial) -> Vec<(&'static str, String)> {
    let number = |number: u32| if number == 0 { String::new() } else { number.to_string() };
    vec![
        ("protocol", denial.protocol.clone()),
        ("names", denial.names.join(",")),
        ("address", denial.address.clone()),
        ("port", number(denial.port)),
        ("method", denial.method.clone()),
        ("path", denial.path.clone()),
        ("rule", denial.rule.clone()),
        ("reason", denial.reason.clone()),
        ("pid", number(denial.pid)),
        ("program", denial.program.clone()),
        ("task", denial.task.clone()),
    ]
}

fn use_detail(used: &CredentialUse) -> Vec<(&'static str, String)> {
    let more = if used.more > 0 { used.more.to_string() } else { String::new() };
    vec![
        ("credential", used.credential.clone()),
        ("secret", used.secret.clone()),
        ("host", used.host.clone()),
        ("port", used.port.to_string()),
        ("requests", used.requests.join(", ")),
        ("moreRequests", more),
    ]
}

fn time(at: Option<&prost_types::Timestamp>) -> String {
    at.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok())
        .map(|at| at.to_string())
        .unwrap_or_default()
}

/// What became of an entry's request.
pub fn refused(entry: Entry, why: &str) -> Entry {
    let detail = BTreeMap::from([("error".to_owned(), why.to_owned())]);
    Entry { action: format!("{}.refused", entry.action), detail, ..entry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_recorded() {
        let request = CreateRequest {
            kind: Kind::Workspace.into(),
            name: "dev".into(),
            space: "team".into(),
            spec_json: "{\"runtime\":{}}".into(),
            secret_data: "hidden".into(),
            vars: [("TOKEN".to_owned(), "hidden".to_owned())].into(),
            ..CreateRequest::default()
        };
        let entry = create("uid 1".into(), &request);
        assert_eq!(
            (entry.action.as_str(), entry.object.as_str()),
            ("workspace.create", "workspace dev.team")
        );
        assert!(!format!("{entry:?}").contains("hidden"));
        assert_eq!(entry.detail["vars"], "TOKEN");
        assert!(entry.detail["spec"].starts_with("sha256:") && !entry.detail.contains_key("node"));
        let start = ExecStart {
            command: vec!["echo".into(), "a b".into()],
            env: [("KEY".to_owned(), "hidden".to_owned())].into(),
            ..ExecStart::default()
        };
        let entry = exec("uid 1".into(), "dev", "u", &start);
        assert!(!format!("{entry:?}").contains("hidden"));
        assert_eq!((entry.detail["command"].as_str(), entry.detail["env"].as_str()), ("echo a b", "KEY"));
    }

    #[test]
    fn only_ends_of_the_way_are_recorded() {
        let event = |state: WorkspaceState| PhaseEvent { state: state.into(), ..PhaseEvent::default() };
        let of = Record {
            uid: "u1".into(),
            kind: Kind::Workspace,
            space: "default".into(),
            name: "dev".into(),
            display_name: String::new(),
            labels: BTreeMap::new(),
            spec: String::new(),
            created_at: 0,
            updated_at: 0,
        };
        assert!(phase("n1", &of, &event(WorkspaceState::PullingImage)).is_none());
        let stopped =
            PhaseEvent { stopping_reason: StoppingReason::Error.into(), ..event(WorkspaceState::Stopped) };
        let entry = phase("n1", &of, &stopped).unwrap_or_default();
        assert_eq!((entry.actor.as_str(), entry.object.as_str()), ("node n1", "workspace dev"));
        assert_eq!(entry.detail["reason"], "ERROR");
        let refused = refused(entry, "no");
        assert_eq!((refused.action.as_str(), refused.detail.len()), ("workspace.stopped.refused", 1));
    }
}
