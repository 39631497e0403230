//! Credentials of a run: their values go to the sandbox's keeper, and placeholders to its agent.

use std::sync::Arc;

use cordium_proto::v1::WorkspaceState as S;
use tonic::Code;

use super::{egress::until_policies, fakes::World, node::Node};

const SPEC: &str = r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}},"runtime":{"network":{"credentials":[
    {"name":"api","fromSecret":"token","hosts":["api.example.com"],"env":"API_TOKEN",
     "placeholder":"ghp_placeholder0000"}]}}}"#;
const EGRESS: &str = r#"{"defaultAction":"DENY"}"#;

fn values(world: &World) -> Vec<Vec<String>> {
    let name = |binding: &cordium_broker::Binding| format!("{} {}", binding.name, binding.placeholder);
    world.renewals.lock().unwrap().iter().map(|renewal| renewal.bindings.iter().map(name).collect()).collect()
}

#[tokio::test]
async fn a_run_gets_its_values_new_ones_and_none() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    let missing = node.start("r1", SPEC).await.unwrap_err();
    assert!(
        missing.message().contains("\"token\"") && missing.code() == Code::InvalidArgument,
        "{missing:?}"
    );
    node.start_with_secrets("r1", SPEC, &[("token", "hunter2hunter2")]).await.unwrap();
    node.until(0, S::Running).await;
    let plan = world.credentials.lock().unwrap().remove(0).unwrap();
    assert_eq!((plan.bindings[0].name.as_str(), plan.bindings[0].placeholder.len()), ("api", 19));
    let prepared = world.prepared.lock().unwrap().remove(0);
    assert_eq!(prepared.trust_anchor_pem, plan.authority.certificate);
    let variable = prepared.env.iter().find(|var| var.key == "API_TOKEN").unwrap();
    assert_eq!(variable.value, "ghp_placeholder0000");
    assert!(!format!("{prepared:?}").contains("hunter2"), "the agent has the value");

    assert!(node.set_egress_and("r1", EGRESS, &[("token", "other")]).await.unwrap());
    assert!(node.set_egress_and("r1", EGRESS, &[]).await.unwrap());
    assert_eq!(values(&world), [vec!["api ghp_placeholder0000".to_owned()], vec![]]);
    let record = node.context.store.reader().records().unwrap().remove(0);
    assert!(!record.spec_json.contains("hunter2") && !record.spec_json.contains("other"));
    node.end().await;
    let policies = world.policies.lock().unwrap().len();
    // The next supervisor does not know the values: it leaves them as they are.
    let _node = Node::open(dir.path(), &world);
    until_policies(&world, policies + 1).await;
    assert_eq!(values(&world).len(), 2);
}

#[tokio::test]
async fn what_the_broker_would_refuse_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    for (spec, value, expected) in [
        (SPEC.to_owned(), "a\u{e9}", "spec.runtime.network.credentials[0].fromSecret: "),
        (SPEC.replace("ghp_placeholder0000", "short"), "x", "credentials[0].placeholder"),
        (
            SPEC.replace(",\n     \"placeholder\":\"ghp_placeholder0000\"", ""),
            "x",
            "credentials[0].placeholder: missing",
        ),
        (
            SPEC.replace(
                "\"credentials\"",
                "\"extraRoots\":[\"-----BEGIN CERTIFICATE-----\\nx\"],\"credentials\"",
            ),
            "x",
            "extraRoots[0]",
        ),
    ] {
        let refused = node.start_with_secrets("r1", &spec, &[("token", value)]).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert!(refused.message().contains(expected), "{} instead of {expected}", refused.message());
    }
}
