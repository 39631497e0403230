//! The audit log: what is in it, and that touching it shows.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{FakeNode, Scheduler, workspace};
use cordium_proto::v1::{
    self, AuditHead, AuditRecord, CreateRequest, DeleteResourceRequest, ExecRequest, ExecStart,
    GetHeadRequest, Kind, ListRecordsRequest, VerifyAuditRequest, VerifyAuditResponse, WorkspaceState as S,
    audit_finding::Touch, egress_record, exec_request,
};
use tonic::Code;

const SPEC: &str = r#"{"runtime": {"envVars": [{"key": "TOKEN", "fromSecret": "token"}]}}"#;

async fn records(s: &Scheduler, request: ListRecordsRequest) -> Vec<AuditRecord> {
    let mut stream = s.audit().list_records(request).await.unwrap().into_inner();
    let mut records = Vec::new();
    while let Some(record) = stream.message().await.unwrap() {
        records.push(record);
    }
    records
}

async fn all(s: &Scheduler) -> Vec<AuditRecord> {
    records(s, ListRecordsRequest::default()).await
}

async fn verified(s: &Scheduler, heads: Vec<AuditHead>) -> VerifyAuditResponse {
    s.audit().verify(VerifyAuditRequest { heads }).await.unwrap().into_inner()
}

async fn head(s: &Scheduler) -> AuditHead {
    s.audit().get_head(GetHeadRequest {}).await.unwrap().into_inner()
}

fn log_file(dir: &Path) -> std::path::PathBuf {
    let mut files: Vec<_> =
        std::fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.pop().unwrap()
}

/// A workspace that is made, started with a secret, used, refused a second start, stopped and deleted.
async fn a_life(s: &Scheduler) {
    let secret = CreateRequest {
        kind: Kind::Secret.into(),
        name: "token".into(),
        secret_data: "hunter2".into(),
        ..Default::default()
    };
    s.control().create(secret).await.unwrap();
    s.control().create(workspace("web", SPEC)).await.unwrap();
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    s.start("web").await.unwrap_err();
    let start =
        ExecStart { workspace: "web".into(), command: vec!["id".into(), "-u".into()], ..Default::default() };
    let opening = ExecRequest { message: Some(exec_request::Message::Start(start)) };
    drop(s.session().exec(tokio_stream::once(opening)).await.unwrap());
    s.stop("web").await.unwrap();
    s.until_state("web", S::Stopped).await;
    let delete =
        DeleteResourceRequest { kind: Kind::Workspace.into(), r#ref: "web".into(), ..Default::default() };
    s.control().delete(delete).await.unwrap();
}

#[tokio::test]
async fn a_life_is_recorded_with_who_did_what_and_without_values() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 16_000);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    a_life(&s).await;

    let log = all(&s).await;
    let actions: Vec<&str> = log.iter().map(|record| record.action.as_str()).collect();
    let mut at = 0;
    for action in [
        "secret.create",
        "workspace.create",
        "workspace.start",
        "secret.use",
        "workspace.running",
        "workspace.start",
        "workspace.start.refused",
        "workspace.exec",
        "workspace.stop",
        "workspace.stopped",
        "workspace.delete",
    ] {
        let found = actions[at..].iter().position(|other| *other == action);
        at += found.unwrap_or_else(|| panic!("no {action} after {at} in {actions:?}")) + 1;
    }
    assert!(log.iter().enumerate().all(|(n, record)| record.seq == n as u64 + 1));
    let find = |action: &str| log.iter().find(|record| record.action == action).unwrap();
    let us = format!("uid {} (pid {})", nix::unistd::getuid(), std::process::id());
    assert_eq!(
        (find("workspace.exec").actor.as_str(), find("workspace.running").actor.as_str()),
        (us.as_str(), "node n1")
    );
    assert_eq!(find("workspace.exec").detail["command"], "id -u");
    assert_eq!(find("secret.use").detail["secrets"], "token");
    assert!(find("workspace.start.refused").detail["error"].contains("only a stopped one"));
    let text = std::fs::read_to_string(log_file(dir.path())).unwrap();
    assert!(!text.contains("hunter2"));

    let about = |object: &str, last| ListRecordsRequest { object: object.into(), last, ..Default::default() };
    let web = records(&s, about("web", 0)).await;
    assert!(web.iter().all(|record| record.object == "workspace web") && web.len() >= 9, "{web:?}");
    assert_eq!(records(&s, about("web", 2)).await, web[web.len() - 2..]);
    assert_eq!(records(&s, about("", 3)).await, log[log.len() - 3..]);
    assert_eq!(records(&s, about("nobody", 0)).await, []);
    let report = verified(&s, vec![]).await;
    assert_eq!((report.findings.len(), report.records), (0, log.len() as u64), "{report:?}");
}

#[tokio::test]
async fn the_log_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    s.control().create(workspace("one", "{}")).await.unwrap();
    let request = ListRecordsRequest { follow: true, after: 1, ..Default::default() };
    let mut stream = s.audit().list_records(request).await.unwrap().into_inner();
    for name in ["two", "three"] {
        s.control().create(workspace(name, "{}")).await.unwrap();
        let record =
            tokio::time::timeout(common::PATIENCE, stream.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(record.object, format!("workspace {name}"));
    }
}

#[tokio::test]
async fn what_a_killed_scheduler_has_recorded_stays_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..4 {
        let s = Scheduler::up(dir.path(), &[]).await;
        s.control().create(workspace(&format!("w{n}"), "{}")).await.unwrap();
        // Not in order: before the record has reached the disk, or its hash the store.
        drop(s);
    }
    let s = Scheduler::up(dir.path(), &[]).await;
    assert_eq!(all(&s).await.len(), 4);
    let report = verified(&s, vec![]).await;
    assert_eq!(report.findings, [], "{report:?}");
}

#[tokio::test]
async fn touching_the_log_shows_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    for name in ["a", "b", "c"] {
        s.control().create(workspace(name, "{}")).await.unwrap();
    }
    let noted = head(&s).await;
    let path = log_file(dir.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("workspace b", "workspace x")).unwrap();
    let report = verified(&s, vec![]).await;
    assert_eq!(
        report.findings.iter().map(|f| (f.touch(), f.line)).collect::<Vec<_>>(),
        [(Touch::Changed, 2)]
    );

    // Cut off while nobody looked, once its end was kept.
    std::fs::write(&path, &text).unwrap();
    s.until_kept(dir.path(), 3).await;
    drop(s);
    let cut = text.lines().next().unwrap().to_owned() + "\n";
    std::fs::write(&path, cut).unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    s.control().create(workspace("d", "{}")).await.unwrap();
    let report = verified(&s, vec![noted.clone()]).await;
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].touch(), Touch::Removed);
    assert!(report.findings[0].message.contains("2 to 3"), "{report:?}");
    assert!(all(&s).await.iter().any(|record| record.action == "audit.discontinued"));
}

#[tokio::test]
async fn a_head_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    let heads = vec![AuditHead { seq: 1, hash: vec![0; 5].into() }];
    let error = s.audit().verify(VerifyAuditRequest { heads }).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message()),
        (Code::InvalidArgument, "heads: a hash had 5 bytes; allowed: 32")
    );
    // One that was never written.
    let report = verified(&s, vec![AuditHead { seq: 1, hash: vec![7; 32].into() }]).await;
    assert_eq!(report.findings[0].touch(), Touch::Truncated);
}

/// A record of egress, of which `before` things had happened before.
fn egress(number: u64, before: u64, count: u64, uid: &str, what: egress_record::What) -> v1::EgressRecord {
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    v1::EgressRecord {
        epoch: 9,
        number,
        before,
        count,
        workspace_uid: uid.into(),
        run_id: "run-1".into(),
        first_at: at(60),
        last_at: at(61),
        what: Some(what),
    }
}

fn denial() -> egress_record::What {
    egress_record::What::Denial(v1::Denial {
        names: vec!["a.example".into()],
        address: "192.0.2.1".into(),
        port: 443,
        protocol: "tcp".into(),
        rule: "default".into(),
        reason: "because".into(),
        next: "do".into(),
        pid: 12,
        program: "/usr/bin/curl\u{1b}[31m".into(),
        task: "fetch".into(),
        ..Default::default()
    })
}

fn credential_use() -> egress_record::What {
    egress_record::What::Use(v1::CredentialUse {
        credential: "api".into(),
        secret: "token".into(),
        host: "api.example".into(),
        port: 443,
        requests: vec!["GET /a".into(), "POST /b".into()],
        more: 4,
    })
}

/// Waits for so many records with this action.
async fn until(s: &Scheduler, action: &str, count: usize) -> Vec<AuditRecord> {
    let found = async {
        loop {
            let mut found = all(s).await;
            found.retain(|record| record.action == action);
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(common::PATIENCE, found).await.unwrap_or_else(|_| panic!("no {count} {action}"))
}

/// Waits until the store has it that so many records were taken.
async fn until_taken(dir: &Path, number: i64) {
    let conn = rusqlite::Connection::open(dir.join("control.db")).unwrap();
    let taken = || conn.query_row("SELECT number FROM egress_records", [], |row| row.get::<_, i64>(0));
    let waiting = async {
        while taken().ok() != Some(number) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(common::PATIENCE, waiting).await.expect("the place in the store");
}

#[tokio::test]
async fn denials_and_uses_of_secrets_are_recorded_once_also_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 16_000);
    let up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    s.control().create(workspace("web", "{}")).await.unwrap();
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    let uid = node.with(|n| n.starts[0].workspace_uid.clone());
    node.record(egress(1, 0, 1, &uid, denial()));
    node.record(egress(2, 1, 1, &uid, credential_use()));
    until(&s, "credential.use", 1).await;

    // What happens while nobody listens is not lost, and what was taken does not come again.
    until_taken(dir.path(), 2).await;
    drop(s);
    drop(up);
    node.record(egress(3, 2, 500, &uid, denial()));
    let left_out = egress_record::What::LeftOut(egress_record::LeftOut::Denials.into());
    node.record(egress(4, 502, 99, &uid, left_out));
    node.record(egress(5, 601, 7, "gone", credential_use()));
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    let used = until(&s, "credential.use", 2).await;
    let denied = until(&s, "egress.denied", 2).await;
    let log = all(&s).await;
    let count = |action: &str| log.iter().filter(|record| record.action == action).count();
    assert_eq!((denied.len(), used.len(), count("egress.denied.leftOut")), (2, 2, 1), "{log:?}");
    assert_eq!(count("egress.lost"), 0, "{log:?}");

    let [first, second] = &denied[..] else { panic!("{denied:?}") };
    assert_eq!(
        (first.object.as_str(), first.uid.as_str(), first.actor.as_str()),
        ("workspace web", &*uid, "node n1")
    );
    let detail = |key: &str| first.detail.get(key).map(String::as_str);
    assert_eq!(
        (detail("names"), detail("address"), detail("port")),
        (Some("a.example"), Some("192.0.2.1"), Some("443"))
    );
    assert_eq!(
        (detail("rule"), detail("run"), detail("pid"), detail("task")),
        (Some("default"), Some("run-1"), Some("12"), Some("fetch"))
    );
    assert_eq!(
        (detail("count"), detail("at"), detail("until")),
        (Some("1"), Some("1970-01-01T00:01:00Z"), None)
    );
    assert!(!first.detail["program"].contains('\u{1b}'), "{first:?}");
    assert_eq!(
        (second.detail["count"].as_str(), second.detail["until"].as_str()),
        ("500", "1970-01-01T00:01:01Z")
    );
    assert_eq!(
        (used[0].detail["secret"].as_str(), used[0].detail["requests"].as_str()),
        ("token", "GET /a, POST /b")
    );
    // A workspace that is gone is told by its uid.
    assert_eq!((used[1].object.as_str(), used[1].detail["count"].as_str()), ("workspace gone", "7"));
    let report = verified(&s, vec![]).await;
    assert_eq!(report.findings, [], "{report:?}");
}

#[tokio::test]
async fn what_nobody_took_in_time_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 16_000);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    // Its first seven records have gone, and later a thousand more things.
    node.record(egress(8, 70, 1, "u", denial()));
    node.record(egress(20, 1071, 1, "u", denial()));
    let lost = until(&s, "egress.lost", 2).await;
    assert_eq!(lost.iter().map(|record| record.detail["count"].as_str()).collect::<Vec<_>>(), ["70", "1000"]);
    assert!(lost.iter().all(|record| record.object == "node n1"), "{lost:?}");
    // Another broker: what the old one had not told is not known.
    node.record(v1::EgressRecord { epoch: 10, ..egress(1, 0, 1, "u", denial()) });
    let lost = until(&s, "egress.lost", 3).await;
    assert_eq!(lost[2].detail["count"], "unknown");
    assert_eq!(until(&s, "egress.denied", 3).await.len(), 3);
    assert_eq!(verified(&s, vec![]).await.findings, []);
}
