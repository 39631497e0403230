//! What a run may reach: at its start, changed while it runs, and after a restart of the supervisor.

use std::{sync::Arc, time::Duration};

use cordium_egress::{DefaultAction, Policy};
use cordium_proto::v1::WorkspaceState as S;
use tonic::Code;

use super::{
    fakes::World,
    lifecycle::SPEC,
    node::{Node, UID},
};

const RULES: &str = r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}},"runtime":{"network":{"egress":
    {"defaultAction":"DENY","rules":[{"name":"a","action":"ALLOW","hosts":["*.example.com"],"ports":[443]}]}}}}"#;
const OTHER: &str = r#"{"defaultAction":"DENY","rules":[{"action":"ALLOW","cidrs":["1.1.1.1/32"]}]}"#;

fn policies(world: &World) -> Vec<Policy> {
    world.policies.lock().unwrap().clone()
}

pub async fn until_policies(world: &World, count: usize) -> Vec<Policy> {
    for _ in 0..1_000 {
        let policies = policies(world);
        if policies.len() >= count {
            return policies;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{count} policies did not come, only {:?}", policies(world));
}

#[tokio::test]
async fn a_run_gets_the_rules_of_its_spec_and_the_networks_of_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.start("r1", RULES).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    node.stop(true).await.unwrap();
    node.until(revision, S::Stopped).await;
    node.start("r2", SPEC).await.unwrap();
    let policies = until_policies(&node.world, 2).await;
    assert_eq!(policies[0].default_action, DefaultAction::Deny);
    assert_eq!(policies[0].rules[0].hosts, ["*.example.com"]);
    assert_eq!(policies[0].protected, ["10.96.0.0/12"]);
    // What does not say is under the node's default.
    assert_eq!((policies[1].default_action, policies[1].rules.len()), (DefaultAction::AllowPublic, 0));
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_outlives_the_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    node.start("r1", RULES).await.unwrap();
    node.until(0, S::Running).await;
    assert!(node.set_egress("r1", OTHER).await.unwrap());
    assert_eq!(policies(&world)[1].rules[0].cidrs, ["1.1.1.1/32"]);
    let record = node.context.store.reader().records().unwrap().remove(0);
    assert!(record.spec_json.contains("1.1.1.1/32") && record.spec_json.contains("127.0.0.1:5000/base:1"));
    node.end().await;
    let node = Node::open(dir.path(), &world);
    // Told again, since nobody knows whether the last supervisor came to it.
    assert_eq!(until_policies(&world, 3).await[2], policies(&world)[1]);
    assert_eq!(node.workspaces.find(UID).unwrap().view().state, S::Running);
}

#[tokio::test]
async fn a_change_during_the_start_reaches_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    world.set(|s| s.start_takes = Duration::from_millis(300));
    let node = Node::open(dir.path(), &world);
    node.start("r1", RULES).await.unwrap();
    node.until(0, S::StartingRuntime).await;
    assert!(!node.set_egress("r1", OTHER).await.unwrap());
    assert_eq!(until_policies(&world, 2).await[1].rules[0].cidrs, ["1.1.1.1/32"]);
}

#[tokio::test]
async fn what_cannot_be_changed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    assert_eq!(node.set_egress("r1", OTHER).await.unwrap_err().code(), Code::NotFound);
    node.start("r1", RULES).await.unwrap();
    let revision = node.until(0, S::Running).await.pop().unwrap().revision;
    assert_eq!(node.set_egress("r0", OTHER).await.unwrap_err().code(), Code::FailedPrecondition);
    let bad = node.set_egress("r1", r#"{"rules":[{"action":"ALLOW","hosts":["*"]}]}"#).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    assert!(bad.message().contains("rules[0].hosts[0]"), "{}", bad.message());
    node.world.set(|s| s.policy_fails = true);
    let kept = node.set_egress("r1", OTHER).await.unwrap_err();
    assert!(kept.message().contains("keeps its old egress policy: the broker is gone"), "{}", kept.message());
    node.stop(true).await.unwrap();
    node.until(revision, S::Stopped).await;
    assert_eq!(node.set_egress("r1", OTHER).await.unwrap_err().code(), Code::FailedPrecondition);
}
