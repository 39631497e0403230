//! Services of a run: their credentials go to the sandbox's keeper, and nothing of them to its agent.

use std::sync::Arc;

use cordium_broker::{Service, ServiceProtocol};
use cordium_proto::v1::WorkspaceState as S;
use tonic::Code;

use super::{fakes::World, node::Node};

const SPEC: &str = r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}},"runtime":{"network":{"services":[
    {"name":"db","fromSecret":"password","upstream":{"host":"db.example.com"},
     "protocol":{"postgresql":{"user":"app"}}}]}}}"#;
const EGRESS: &str = r#"{"defaultAction":"DENY"}"#;

#[tokio::test]
async fn a_run_gets_its_credential_a_new_one_and_none() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    let missing = node.start("r1", SPEC).await.unwrap_err();
    assert!(
        missing.message().contains("\"password\"") && missing.code() == Code::InvalidArgument,
        "{missing:?}"
    );
    node.start_with_secrets("r1", SPEC, &[("password", "hunter2\n")]).await.unwrap();
    node.until(0, S::Running).await;
    let services = world.services.lock().unwrap().remove(0).unwrap().services;
    let [Service { local, upstream, protocol, secret, .. }] = services.as_slice() else {
        panic!("{services:?}")
    };
    assert_eq!((local.host.as_str(), local.port, upstream.port), ("db.cordium.internal", 5432, 5432));
    let expected = ServiceProtocol::Postgresql { user: "app".into(), database: None, tls: true };
    assert_eq!((protocol, serde_json::to_string(secret).unwrap().as_str()), (&expected, "\"aHVudGVyMg==\""));
    let prepared = world.prepared.lock().unwrap().remove(0);
    assert!(!format!("{prepared:?}").contains("hunter2"), "the agent has the password");

    assert!(node.set_egress_and("r1", EGRESS, &[("password", "other")]).await.unwrap());
    assert!(node.set_egress_and("r1", EGRESS, &[]).await.unwrap());
    let renewals = world.renewals.lock().unwrap().clone();
    let kept: Vec<bool> = renewals.iter().map(|renewal| renewal.services[0].secret.is_some()).collect();
    assert_eq!(kept, [true, false], "the service stays, and says that its credential is gone");
    node.end().await;
}

#[tokio::test]
async fn what_the_broker_would_refuse_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let refused = node.start_with_secrets("r1", SPEC, &[("password", &"x".repeat(2000))]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    let expected = "spec.runtime.network.services[0].fromSecret: its value is no password";
    assert!(refused.message().contains(expected), "{}", refused.message());
}
