//! Egress policies: in the workspace's spec, in its run, and at its node.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, Scheduler};
use cordium_proto::v1::{
    CreateRequest, EgressPolicy, GetEgressRequest, Kind, ListRecordsRequest, SetEgressRequest,
    WorkspaceState as S,
};
use tonic::{Code, Status};

const OWN: &str = r#"{"rules":[{"action":"ALLOW","hosts":["a.example"]}]}"#;
const DENY: &str = r#"{"name":"t","hosts":["evil.example"],"action":"DENY"}"#;

async fn set(s: &Scheduler, name: &str, egress: &str) -> Result<EgressPolicy, Status> {
    let request = SetEgressRequest { r#ref: name.into(), egress_json: egress.into(), ..Default::default() };
    s.control().set_egress(request).await.map(tonic::Response::into_inner)
}

async fn get(s: &Scheduler, name: &str) -> EgressPolicy {
    let request = GetEgressRequest { r#ref: name.into(), ..Default::default() };
    s.control().get_egress(request).await.unwrap().into_inner()
}

/// A workspace of a template with a rule.
async fn of_template(s: &Scheduler) {
    let spec_json =
        format!(r#"{{"runtime":{{"network":{{"egress":{{"defaultAction":"DENY","rules":[{DENY}]}}}}}}}}"#);
    let template =
        CreateRequest { kind: Kind::Template.into(), name: "t".into(), spec_json, ..Default::default() };
    s.control().create(template).await.unwrap();
    let request = CreateRequest { template: "t".into(), ..common::workspace("web", "{}") };
    s.control().create(request).await.unwrap();
}

#[tokio::test]
async fn a_stopped_workspace_has_its_policy_from_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    of_template(&s).await;
    let policy = set(&s, "web", OWN).await.unwrap();
    assert!(policy.egress_json.contains("a.example") && !policy.egress_json.contains("evil"));
    assert!(policy.merged_json.contains("a.example") && policy.merged_json.contains("evil.example"));
    assert!(!policy.in_force && policy.run_json.is_empty() && policy.warnings.is_empty());
    assert!(node.with(|n| n.egress.is_empty()));
    assert!(s.get("web").await.spec_json.contains("a.example"));
    let mut log = s.audit().list_records(ListRecordsRequest::default()).await.unwrap().into_inner();
    let mut actions = Vec::new();
    while let Some(record) = log.message().await.unwrap() {
        actions.push(record.action);
    }
    assert_eq!(actions.last().unwrap(), "workspace.egress");
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    assert!(node.with(|n| n.starts[0].spec_json.contains("a.example")));
    assert_eq!(get(&s, "web").await.run_json, policy.merged_json);
}

#[tokio::test]
async fn a_run_is_told_with_the_rules_of_its_template() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    of_template(&s).await;
    s.start("web").await.unwrap();
    let run = s.until_state("web", S::Running).await.run.unwrap().id;
    let policy = set(&s, "web", OWN).await.unwrap();
    assert!(policy.in_force && policy.warnings.is_empty(), "{policy:?}");
    let told = node.with(|n| n.egress.clone()).remove(0);
    assert_eq!((told.run_id, &told.egress_json), (run, &policy.run_json));
    assert!(told.egress_json.contains("evil.example") && told.egress_json.contains("a.example"));
    // Nothing else of the run's spec has changed.
    assert_eq!(s.status("web").await.state(), S::Running);
    let empty = set(&s, "web", "{}").await.unwrap();
    assert_eq!(empty.egress_json, "{}");
    assert!(!empty.run_json.contains("a.example") && empty.run_json.contains("evil.example"));
}

#[tokio::test]
async fn a_node_that_does_not_take_it_is_told_about() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    of_template(&s).await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    node.with(|n| n.keep_egress = Some(Status::internal("the broker is gone")));
    let policy = set(&s, "web", OWN).await.unwrap();
    assert!(!policy.in_force);
    assert!(policy.warnings[0].contains("the broker is gone"), "{:?}", policy.warnings);
    // Durable all the same, and told again.
    assert!(s.get("web").await.spec_json.contains("a.example"));
    node.with(|n| n.keep_egress = None);
    told(&node, "a.example").await;
}

/// Waits until the node has heard of a policy with this in it.
async fn told(node: &FakeNode, words: &str) {
    node.until_egress(|told| told.iter().any(|told| told.egress_json.contains(words))).await;
}

#[tokio::test]
async fn a_node_that_was_away_is_told_when_it_is_back_also_by_another_scheduler() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    s.create("web", "{}").await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    drop(up);
    s.reachable("n1", false).await;
    let policy = set(&s, "web", OWN).await.unwrap();
    assert!(!policy.in_force && policy.warnings[0].contains("until its node takes it"), "{policy:?}");
    drop(s);
    let s = Scheduler::up(dir.path(), &[&node]).await;
    let _up = node.up();
    told(&node, "a.example").await;
    // Once is enough.
    s.until_all_told(dir.path()).await;
    drop(s);
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    s.create("web", "{}").await;
    for (egress, path) in [
        (r#"{"rules":[{"action":"ALLOW","hosts":["*"]}]}"#, "rules[0].hosts[0]"),
        (r#"{"rules":[{"action":"ALLOW"}]}"#, "rules[0].cidrs"),
        (r#"{"rule":[]}"#, "rule"),
        ("", "empty"),
    ] {
        let refused = set(&s, "web", egress).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(path), "{}", refused.message());
    }
    assert_eq!(s.get("web").await.spec_json, "{}");
    assert_eq!(set(&s, "none", OWN).await.unwrap_err().code(), Code::NotFound);
}
