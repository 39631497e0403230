//! Resources and events as JSON in the published form: camelCase, short enum names, RFC 3339 times, no empty fields.

use cordium_proto::v1::{
    Failure, Kind as ProtoKind, Limit, Metadata, PhaseEvent, Pressure, Resource, Run, SharedPort,
    StoppingReason, Usage, VolumeStatus, WorkspaceEvent, WorkspaceState, WorkspaceStatus, failure::Type,
    shared_port::Mode,
};
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::duration::rfc3339;
use crate::spec::Kind;

/// An object that takes only what is there.
#[derive(Default)]
pub struct Object(Map<String, Value>);

impl Object {
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.set(key, value) }
    }

    pub fn number(self, key: &str, value: u64) -> Self {
        if value == 0 { self } else { self.set(key, value) }
    }

    pub fn time(self, key: &str, value: Option<&Timestamp>) -> Self {
        match value {
            Some(at) => self.set(key, rfc3339(at)),
            None => self,
        }
    }

    pub fn maybe(self, key: &str, value: Option<Value>) -> Self {
        match value {
            Some(value) => self.set(key, value),
            None => self,
        }
    }

    pub fn list(self, key: &str, values: Vec<Value>) -> Self {
        if values.is_empty() { self } else { self.set(key, values) }
    }

    pub fn reference(self, key: &str, name: &str) -> Self {
        if name.is_empty() { self } else { self.set(key, json!({ "name": name })) }
    }

    pub fn done(self) -> Value {
        Value::Object(self.0)
    }
}

pub fn state_name(state: i32) -> &'static str {
    WorkspaceState::try_from(state).unwrap_or(WorkspaceState::Unknown).short_name()
}

fn reason(value: i32) -> Option<Value> {
    match StoppingReason::try_from(value).ok()? {
        StoppingReason::Unset => None,
        reason => Some(reason.as_str_name().trim_start_matches("STOPPING_REASON_").into()),
    }
}

pub fn resource(resource: &Resource) -> Value {
    let kind = Kind::of(resource.kind());
    let spec = serde_json::from_str::<Value>(&resource.spec_json).unwrap_or_else(|_| json!({}));
    let status = match &resource.status {
        Some(status) => Some(workspace_status(status, &resource.space)),
        None if resource.volume_status.is_some() => {
            resource.volume_status.as_ref().map(|status| volume_status(status, &resource.space))
        }
        None if resource.space.is_empty() => None,
        None => Some(Object::default().reference("spaceRef", &resource.space).done()),
    };
    Object::default()
        .set("apiVersion", "cordium/v1")
        .set("kind", kind.map_or("Unknown", Kind::title))
        .set("metadata", metadata(resource.metadata.as_ref()))
        .set("spec", spec)
        .maybe("status", status)
        .done()
}

pub fn list(kind: ProtoKind, items: &[Resource]) -> Value {
    json!({
        "apiVersion": "cordium/v1",
        "kind": format!("{}List", Kind::of(kind).map_or("Unknown", Kind::title)),
        "items": items.iter().map(resource).collect::<Vec<_>>(),
    })
}

fn metadata(metadata: Option<&Metadata>) -> Value {
    let Some(m) = metadata else { return json!({}) };
    let mut labels: Vec<_> = m.labels.iter().collect();
    labels.sort();
    let labels: Map<String, Value> = labels.into_iter().map(|(k, v)| (k.clone(), v.clone().into())).collect();
    Object::default()
        .text("uid", &m.uid)
        .text("name", &m.name)
        .text("displayName", &m.display_name)
        .time("createdAt", m.created_at.as_ref())
        .time("updatedAt", m.updated_at.as_ref())
        .maybe("labels", (!labels.is_empty()).then_some(Value::Object(labels)))
        .done()
}

fn workspace_status(s: &WorkspaceStatus, space: &str) -> Value {
    let duration = s.total_last_runs_duration.as_ref();
    let duration = duration.map(|d| Value::from(format!("{}.{:03}s", d.seconds, d.nanos / 1_000_000)));
    Object::default()
        .set("state", state_name(s.state))
        .maybe("lastState", (s.last_state != 0).then(|| state_name(s.last_state).into()))
        .time("currentStateSetAt", s.current_state_set_at.as_ref())
        .time("lastStateSetAt", s.last_state_set_at.as_ref())
        .reference("spaceRef", if s.space.is_empty() { space } else { &s.space })
        .reference("templateRef", &s.template)
        .text("node", &s.node)
        .text("hostname", &s.hostname)
        .time("lastInitializedAt", s.last_initialized_at.as_ref())
        .time("lastRunningAt", s.last_running_at.as_ref())
        .time("lastActivityAt", s.last_activity_at.as_ref())
        .time("lastStoppedAt", s.last_stopped_at.as_ref())
        .set("successfulRuns", s.successful_runs)
        .maybe("totalLastRunsDuration", duration)
        .maybe("limit", s.limit.as_ref().map(limit))
        .maybe("usage", s.usage.as_ref().map(usage))
        .maybe("stoppingReason", reason(s.stopping_reason))
        .maybe("lastStoppingReason", reason(s.last_stopping_reason))
        .maybe("run", s.run.as_ref().map(run))
        .list("lastRuns", s.last_runs.iter().map(run).collect())
        .maybe("failure", s.failure.as_ref().map(failure))
        .list("warnings", s.warnings.iter().cloned().map(Value::from).collect())
        .list("sharedPorts", s.shared_ports.iter().map(shared_port).collect())
        .done()
}

pub fn volume_state(s: &VolumeStatus) -> &'static str {
    s.state().as_str_name().trim_start_matches("STATE_")
}

/// As people write it: `exclusive`.
pub fn access_mode(mode: &str) -> String {
    mode.trim_start_matches("ACCESS_MODE_").to_lowercase()
}

fn volume_status(s: &VolumeStatus, space: &str) -> Value {
    let texts = |list: &[String]| list.iter().cloned().map(Value::from).collect();
    Object::default()
        .set("state", volume_state(s))
        .reference("spaceRef", space)
        .text("node", &s.node)
        .maybe("capacity", (s.capacity_mib != 0).then(|| json!({ "megabytes": s.capacity_mib })))
        .time("readyAt", s.ready_at.as_ref())
        .list("mountedBy", texts(&s.mounted_by))
        .list("warnings", texts(&s.warnings))
        .done()
}

pub fn limit(l: &Limit) -> Value {
    let part = |key: &str, n: u64| (n != 0).then(|| json!({ key: n }));
    let inotify = Object::default()
        .number("instances", l.inotify_instances)
        .number("watches", l.inotify_watches)
        .done();
    Object::default()
        .maybe("cpu", part("millicores", l.cpu_millicores))
        .maybe("memory", part("megabytes", l.memory_mib))
        .maybe("swap", part("megabytes", l.swap_mib))
        .maybe("storage", part("megabytes", l.storage_mib))
        .number("inodes", l.inodes)
        .number("pids", l.pids)
        .maybe("io", part("weight", l.io_weight))
        .number("openFiles", l.open_files)
        .maybe("inotify", (inotify != json!({})).then_some(inotify))
        .number("userNamespaces", l.user_namespaces)
        .done()
}

pub fn usage(u: &Usage) -> Value {
    let pressure = |p: &Option<Pressure>| {
        p.as_ref().map(|p| json!({ "someAvg10": p.some_avg10, "fullAvg10": p.full_avg10 }))
    };
    let pressures = Object::default()
        .maybe("cpu", pressure(&u.cpu_pressure))
        .maybe("memory", pressure(&u.memory_pressure))
        .maybe("io", pressure(&u.io_pressure))
        .done();
    Object::default()
        .time("at", u.at.as_ref())
        .set("cpu", json!({ "usec": u.cpu_usec }))
        .set(
            "memory",
            json!({ "bytes": u.memory_bytes, "peakBytes": u.memory_peak_bytes, "swapBytes": u.swap_bytes }),
        )
        .set("pids", json!({ "count": u.pids, "refused": u.pids_refused }))
        .maybe(
            "storage",
            u.storage_measured_at
                .as_ref()
                .map(|at| json!({ "bytes": u.storage_bytes, "inodes": u.inodes, "measuredAt": rfc3339(at) })),
        )
        .set("oomKills", u.oom_kills)
        .text("lastOomVictim", &u.last_oom_victim)
        .maybe("pressure", (pressures != json!({})).then_some(pressures))
        .done()
}

fn run(r: &Run) -> Value {
    let mut vars: Vec<_> = r.vars.iter().collect();
    vars.sort();
    let vars: Vec<Value> = vars.into_iter().map(|(n, v)| json!({ "name": n, "value": v })).collect();
    let config = (!vars.is_empty()).then(|| json!({ "vars": vars }));
    Object::default()
        .text("id", &r.id)
        .text("startedBy", &r.started_by)
        .time("initializedAt", r.initialized_at.as_ref())
        .time("stoppedAt", r.stopped_at.as_ref())
        .maybe("failure", r.failure.as_ref().map(failure))
        .maybe("config", config)
        .done()
}

fn shared_port(p: &SharedPort) -> Value {
    let mode = Mode::try_from(p.mode).unwrap_or(Mode::Unset).as_str_name().trim_start_matches("MODE_");
    json!({ "mode": mode, "applicationName": p.application_name })
}

/// The failure's type as its field is called, with what it carries.
pub fn failure_type(f: &Failure) -> (&'static str, Value) {
    let unit = || json!({});
    match &f.r#type {
        Some(Type::ImageBuild(_)) => ("imageBuild", unit()),
        Some(Type::ImagePull(_)) => ("imagePull", unit()),
        Some(Type::RepoClone(_)) => ("repoClone", unit()),
        Some(Type::AdditionalRepoClone(n)) => ("additionalRepoClone", json!({ "name": n.name })),
        Some(Type::BuildTimeoutExceeded(_)) => ("buildTimeoutExceeded", unit()),
        Some(Type::Task(t)) => ("task", json!({ "name": t.name, "exitCode": t.exit_code })),
        Some(Type::StartupUnknown(_)) => ("startupUnknown", unit()),
        Some(Type::StartupTimeoutExceeded(_)) => ("startupTimeoutExceeded", unit()),
        Some(Type::LoadStorage(_)) => ("loadStorage", unit()),
        Some(Type::SaveStorage(_)) => ("saveStorage", unit()),
        Some(Type::StoppageTimeoutExceeded(_)) => ("stoppageTimeoutExceeded", unit()),
        Some(Type::RunContainer(_)) => ("runContainer", unit()),
        Some(Type::HealthCheck(_)) => ("healthCheck", unit()),
        Some(Type::NetworkPolicy(_)) => ("networkPolicy", unit()),
        Some(Type::Volume(n)) => ("volume", json!({ "name": n.name })),
        Some(Type::StorageExceeded(_)) => ("storageExceeded", unit()),
        Some(Type::OutOfMemory(_)) => ("outOfMemory", unit()),
        Some(Type::Unknown(_)) | None => ("unknown", unit()),
    }
}

pub fn failure(f: &Failure) -> Value {
    let (kind, body) = failure_type(f);
    Object::default().text("message", &f.message).set(kind, body).done()
}

pub fn phase(p: &PhaseEvent) -> Value {
    Object::default()
        .set("revision", p.revision)
        .time("at", p.at.as_ref())
        .text("node", &p.node)
        .set("workspace", json!({ "uid": p.workspace_uid, "name": p.workspace_name }))
        .text("runId", &p.run_id)
        .set("state", state_name(p.state))
        .maybe("lastState", (p.last_state != 0).then(|| state_name(p.last_state).into()))
        .maybe("failure", p.failure.as_ref().map(failure))
        .maybe("stoppingReason", reason(p.stopping_reason))
        .text("detail", &p.detail)
        .list("warnings", p.warnings.iter().cloned().map(Value::from).collect())
        .maybe("limit", p.limit.as_ref().map(limit))
        .maybe("snapshot", p.snapshot.then_some(true.into()))
        .done()
}

/// An event with the scheduler's revision, which is the one to resume from.
pub fn event(e: &WorkspaceEvent) -> Value {
    let mut value = match &e.phase {
        Some(p) => phase(p),
        None => {
            let meta = e.workspace.as_ref().and_then(|w| w.metadata.as_ref());
            let state = e.workspace.as_ref().and_then(|w| w.status.as_ref()).map_or(0, |s| s.state);
            json!({ "workspace": { "uid": meta.map(|m| &m.uid), "name": meta.map(|m| &m.name) },
                    "state": state_name(state) })
        }
    };
    value["revision"] = e.revision.into();
    if e.deleted {
        value["deleted"] = true.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use cordium_proto::v1::failure::TaskFailure;
    use prost_types::Duration;

    #[test]
    fn a_workspace_has_the_published_form() {
        let r = Resource {
            kind: ProtoKind::Workspace.into(),
            metadata: Some(Metadata {
                uid: "u1".into(),
                name: "dev".into(),
                created_at: Some(Timestamp { seconds: 0, nanos: 0 }),
                ..Metadata::default()
            }),
            spec_json: r#"{"image":{"registry":{"url":"alpine:3"}}}"#.into(),
            space: "default".into(),
            status: Some(WorkspaceStatus {
                state: WorkspaceState::Stopped.into(),
                last_state: WorkspaceState::Stopping.into(),
                stopping_reason: StoppingReason::Error.into(),
                successful_runs: 2,
                total_last_runs_duration: Some(Duration { seconds: 3, nanos: 40_000_000 }),
                limit: Some(Limit { cpu_millicores: 2000, memory_mib: 512, ..Limit::default() }),
                failure: Some(Failure {
                    message: "task setup: exit code 13".into(),
                    r#type: Some(Type::Task(TaskFailure {
                        name: "setup".into(),
                        exit_code: 13,
                        ..Default::default()
                    })),
                }),
                ..WorkspaceStatus::default()
            }),
            ..Resource::default()
        };
        assert_eq!(
            resource(&r),
            json!({
                "apiVersion": "cordium/v1", "kind": "Workspace",
                "metadata": { "uid": "u1", "name": "dev", "createdAt": "1970-01-01T00:00:00.000Z" },
                "spec": { "image": { "registry": { "url": "alpine:3" } } },
                "status": {
                    "state": "STOPPED", "lastState": "STOPPING", "spaceRef": { "name": "default" },
                    "successfulRuns": 2, "totalLastRunsDuration": "3.040s", "stoppingReason": "ERROR",
                    "limit": { "cpu": { "millicores": 2000 }, "memory": { "megabytes": 512 } },
                    "failure": { "message": "task setup: exit code 13", "task": { "name": "setup", "exitCode": 13 } }
                }
            })
        );
    }

    #[test]
    fn an_event_carries_the_stream_s_revision() {
        let e = WorkspaceEvent {
            revision: 9,
            phase: Some(PhaseEvent {
                revision: 4,
                state: WorkspaceState::Running.into(),
                ..PhaseEvent::default()
            }),
            ..WorkspaceEvent::default()
        };
        assert_eq!(event(&e)["revision"], 9);
        assert_eq!(event(&e)["state"], "RUNNING");
    }
}
