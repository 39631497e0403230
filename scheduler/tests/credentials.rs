//! Credentials: a placeholder at the start, and the node is told when a value turns or goes.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, Scheduler};
use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, Kind, SetEgressRequest, UpdateRequest, WorkspaceState as S,
};
use tonic::{Code, Status};

const VALUE: &str = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
const SPEC: &str = r#"{"limit":{"memory":{"megabytes":500}},"runtime":{"network":{"credentials":[
    {"name":"api","fromSecret":"token","hosts":["api.example.com"],"env":"API_TOKEN"}]}}}"#;

async fn secret(s: &Scheduler, name: &str, value: &str) {
    let request = CreateRequest {
        kind: Kind::Secret.into(),
        name: name.into(),
        secret_data: value.as_bytes().to_vec().into(),
        ..Default::default()
    };
    s.control().create(request).await.unwrap();
}

async fn turn(s: &Scheduler, value: &str) {
    let request = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "token".into(),
        secret_data: Some(value.as_bytes().to_vec().into()),
        ..Default::default()
    };
    s.control().update(request).await.unwrap();
}

async fn delete(s: &Scheduler, force: bool) -> Result<Vec<String>, Status> {
    let request = DeleteResourceRequest {
        kind: Kind::Secret.into(),
        r#ref: "token".into(),
        force,
        ..Default::default()
    };
    s.control().delete(request).await.map(|answer| answer.into_inner().warnings)
}

fn placeholder(spec_json: &str) -> String {
    let spec = cordium_spec::parse_resolved_json(spec_json).unwrap();
    spec.runtime.network.credentials[0].placeholder.clone().unwrap()
}

#[tokio::test]
async fn a_run_has_a_placeholder_and_its_node_the_values_as_they_turn() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    secret(&s, "token", VALUE).await;
    s.create("web", SPEC).await;
    s.create("other", &common::memory(500)).await;
    s.start("web").await.unwrap();
    s.start("other").await.unwrap();
    s.until_state("web", S::Running).await;
    s.until_state("other", S::Running).await;
    let start = node.with(|n| n.starts.iter().find(|start| start.workspace_name == "web").cloned()).unwrap();
    assert_eq!(&start.secrets["token"][..], VALUE.as_bytes());
    let told = placeholder(&start.spec_json);
    assert!(told.starts_with("ghp_") && told.len() == VALUE.len() && told != VALUE, "{told}");
    assert!(!s.get("web").await.spec_json.contains("placeholder"), "its own spec stays as written");

    let bad = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "token".into(),
        secret_data: Some(b"two\nlines".to_vec().into()),
        ..Default::default()
    };
    let refused = s.control().update(bad).await.unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("\"token\""),
        "{refused:?}"
    );
    assert!(node.with(|n| n.egress.is_empty()));

    turn(&s, "another").await;
    let heard = node.with(|n| n.egress.clone());
    assert_eq!(heard.len(), 1, "only the run that has it: {heard:?}");
    assert_eq!((&heard[0].run_id, &heard[0].secrets["token"][..]), (&start.run_id, &b"another"[..]));

    // A changed policy brings the values along.
    let request = SetEgressRequest {
        r#ref: "web".into(),
        egress_json: r#"{"defaultAction":"DENY"}"#.into(),
        ..Default::default()
    };
    s.control().set_egress(request).await.unwrap();
    assert_eq!(&node.with(|n| n.egress.last().cloned()).unwrap().secrets["token"][..], b"another");

    let used = delete(&s, false).await.unwrap_err();
    assert!(used.message().contains("is used by") && used.code() == Code::FailedPrecondition, "{used:?}");
    assert_eq!(delete(&s, true).await.unwrap(), Vec::<String>::new());
    assert!(node.with(|n| n.egress.last().cloned()).unwrap().secrets.is_empty(), "revoked");
}

#[tokio::test]
async fn a_node_that_was_away_hears_of_a_turned_value_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    secret(&s, "token", VALUE).await;
    s.create("web", SPEC).await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    drop(up);
    s.reachable("n1", false).await;
    turn(&s, "another").await;
    assert!(
        delete(&s, true).await.unwrap()[0].contains("until its node takes"),
        "the revocation is not known"
    );
    secret(&s, "token", "third").await;
    let _up = node.up();
    node.until_egress(|told| told.iter().any(|told| told.secrets.get("token").is_some_and(|v| v == "third")))
        .await;
}

#[tokio::test]
async fn a_node_is_told_until_the_new_value_is_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    secret(&s, "token", VALUE).await;
    s.create("web", SPEC).await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    node.with(|n| n.egress_later = true);
    turn(&s, "another").await;
    node.until_egress(|told| told.len() >= 3).await;
    node.with(|n| n.egress_later = false);
    let count = node.with(|n| n.egress.len());
    node.until_egress(|told| told.len() > count).await;
    s.until_all_told(dir.path()).await;
}

#[tokio::test]
async fn a_value_that_cannot_be_on_a_request_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    secret(&s, "token", "two\nlines").await;
    s.create("web", SPEC).await;
    let refused = s.start("web").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let message = refused.message();
    assert!(message.contains("spec.runtime.network.credentials[0].fromSecret: was \"token\""), "{message}");
    assert!(!message.contains("lines"), "{message}");
    assert!(node.with(|n| n.starts.is_empty()));
    // What editors leave behind a line is no part of the value.
    turn(&s, "one-line\n").await;
    s.start("web").await.unwrap();
    let unknown = SPEC.replace("\"token\"", "\"nobody\"");
    let refused = s.control().create(common::workspace("unknown", &unknown)).await.unwrap_err();
    assert!(refused.message().contains("nobody"), "{refused:?}");
}

#[tokio::test]
async fn the_secret_of_a_service_goes_to_the_node_and_is_not_replaced_by_what_is_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 8192);
    let _up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    let spec = r#"{"limit":{"memory":{"megabytes":500}},"runtime":{"network":{"services":[
        {"name":"db","fromSecret":"token","upstream":{"host":"db.example.com"},
         "protocol":{"postgresql":{"user":"app"}}}]}}}"#;
    let unknown = s.control().create(common::workspace("unknown", spec)).await.unwrap_err();
    assert!(unknown.message().contains("token"), "{unknown:?}");
    // What a header could not have, a password can.
    secret(&s, "token", "pa\u{df} wort").await;
    s.create("web", spec).await;
    s.start("web").await.unwrap();
    s.until_state("web", S::Running).await;
    let start = node.with(|n| n.starts.first().cloned()).unwrap();
    assert_eq!(&start.secrets["token"][..], "pa\u{df} wort".as_bytes());
    let bad = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "token".into(),
        secret_data: Some(vec![b'x'; 2000].into()),
        ..Default::default()
    };
    let refused = s.control().update(bad).await.unwrap_err();
    assert!(
        refused.message().contains("for service \"db\"") && !refused.message().contains("xxx"),
        "{refused:?}"
    );
    turn(&s, "another").await;
    assert_eq!(&node.with(|n| n.egress.last().cloned()).unwrap().secrets["token"][..], b"another");
    assert_eq!(delete(&s, true).await.unwrap(), Vec::<String>::new());
    assert!(node.with(|n| n.egress.last().cloned()).unwrap().secrets.is_empty(), "revoked");
}
