use std::sync::Arc;

use cordium_proto::v1::{WorkspaceState as S, failure::Type};
use cordium_runtime::MOUNT_TARGET;
use tonic::Code;

use super::{
    fakes::World,
    node::{Node, UID},
};

pub fn spec(mounts: &[(&str, &str)]) -> String {
    let mounts: Vec<_> = mounts
        .iter()
        .map(|(uid, path)| format!(r#"{{"volumeRef":{{"uid":"{uid}"}},"mountPath":"{path}"}}"#))
        .collect();
    format!(
        r#"{{"image":{{"registry":{{"url":"127.0.0.1:5000/base:1"}}}},"runtime":{{"volumeMounts":[{}]}}}}"#,
        mounts.join(",")
    )
}

#[tokio::test]
async fn a_run_makes_its_volumes_and_says_what_is_not_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let wanted = spec(&[("v-1", "/data"), ("v-2", "/other")]);
    node.start_with(UID, "r1", &wanted, &[("v-1", true), ("v-2", false)]).await.unwrap();
    let up = node.until(0, S::Running).await;
    let warnings = &up.last().unwrap().warnings;
    for name in ["v-1-name", "v-2-name"] {
        assert!(warnings.iter().any(|w| w.contains(name) && w.contains("not enforced")), "{warnings:?}");
    }
    for uid in ["v-1", "v-2"] {
        assert!(node.context.volumes.data(uid).is_dir());
        std::fs::write(node.context.volumes.data(uid).join("kept"), "x").unwrap();
    }
    node.delete().await.unwrap();
    assert!(node.context.volumes.data("v-1").join("kept").exists(), "it went with the workspace");
    node.delete_volume("v-1").await.unwrap();
    assert!(!node.context.volumes.data("v-1").exists() && node.context.volumes.data("v-2").exists());
}

#[tokio::test]
async fn the_node_itself_keeps_exclusive_volumes_apart_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    let wanted = spec(&[("v-1", "/data")]);
    node.start_with(UID, "r1", &wanted, &[("v-1", true)]).await.unwrap();
    node.until(0, S::Running).await;
    let refused = node.start_with("other", "r2", &wanted, &[("v-1", true)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("\"v-1-name\"") && refused.message().contains(UID), "{refused}");
    node.end().await;

    let node = Node::open(dir.path(), &world);
    let refused = node.start_with("other", "r2", &wanted, &[("v-1", true)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(node.delete_volume("v-1").await.unwrap_err().code(), Code::FailedPrecondition);
    let revision = node.stop(false).await.unwrap();
    let revision = node.until(revision, S::Stopped).await.last().unwrap().revision;
    node.start_with("other", "r2", &wanted, &[("v-1", true)]).await.unwrap();
    node.until(revision, S::Running).await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_ended_keeps_its_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    let wanted = spec(&[("v-1", "/data")]);
    node.start_with(UID, "r1", &wanted, &[("v-1", true)]).await.unwrap();
    let revision = node.until(0, S::Running).await.last().unwrap().revision;
    node.world.set(|s| s.kill_fails = true);
    node.stop(true).await.unwrap();
    node.until(revision, S::Stopped).await;
    let refused = node.start_with("other", "r2", &wanted, &[("v-1", true)]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test]
async fn what_is_not_given_or_no_plain_word_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    for (mounted, given) in [("v-1", "v-2"), ("../x", "../x"), ("a/b", "a/b"), (".gone-x", ".gone-x")] {
        let answer = node.start_with(UID, "r1", &spec(&[(mounted, "/data")]), &[(given, true)]).await;
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{mounted}: {error}");
    }
    for bad in ["", ".", "..", "../../etc", "a/b", ".gone-x"] {
        assert_eq!(node.delete_volume(bad).await.unwrap_err().code(), Code::InvalidArgument, "{bad}");
    }
    assert!(!dir.path().join("state/volumes").exists());
}

#[tokio::test]
async fn a_mount_that_fails_is_told_by_its_volume() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &Arc::default());
    node.world.set(|s| {
        s.start_fails =
            Some(format!("{MOUNT_TARGET} \"/b\": \"/b\" is a symbolic link in the workspace's root"));
    });
    let wanted = spec(&[("v-1", "/a"), ("v-2", "/b")]);
    node.start_with(UID, "r1", &wanted, &[("v-1", true), ("v-2", true)]).await.unwrap();
    let failure = node.until(1, S::Stopped).await.last().unwrap().failure.clone().unwrap();
    let Some(Type::Volume(named)) = &failure.r#type else { panic!("{failure:?}") };
    assert_eq!(named.name, "v-2-name");
    assert!(failure.message.contains("symbolic link"), "{failure:?}");
}
