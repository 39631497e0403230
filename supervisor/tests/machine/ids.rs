use std::sync::Arc;

use cordium_proto::v1::WorkspaceState as S;

use super::{
    fakes::World,
    node::{Node, RANGES, UID, ids},
    volumes::spec,
};

const PLAIN: &str = r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1"}}}"#;

fn told(event: &cordium_proto::v1::PhaseEvent) -> bool {
    event.warnings.iter().any(|warning| warning.contains("shares its range of ids"))
}

#[tokio::test]
async fn each_run_has_ids_of_its_own_while_there_are_some() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    let mut revision = 0;
    for n in 0..=RANGES {
        let uid = if n == 0 { UID.to_owned() } else { format!("w-{n}") };
        node.start_with(&uid, &format!("r{n}"), PLAIN, &[]).await.unwrap();
        let up = node.until(revision, S::Running).await;
        let last = up.last().unwrap();
        revision = last.revision;
        // Of those before, each had its own; the last shares one.
        assert_eq!(told(last), n == RANGES, "{:?}", last.warnings);
        let of = |uid: &str| world.ids.lock().unwrap()[uid];
        assert_eq!(of(&uid), ids(n.min(RANGES - 1)));
    }
    // What ends gives its range to the next.
    node.stop(true).await.unwrap();
    revision = node.until(revision, S::Stopped).await.last().unwrap().revision;
    node.delete().await.unwrap();
    node.start_with("late", "late", PLAIN, &[]).await.unwrap();
    node.until(revision, S::Running).await;
    assert_eq!(world.ids.lock().unwrap()["late"], ids(0));
}

#[tokio::test]
async fn those_that_share_a_volume_share_their_ids_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let world: Arc<World> = Arc::default();
    let node = Node::open(dir.path(), &world);
    let wanted = spec(&[("v-1", "/data")]);
    node.start_with(UID, "r1", &wanted, &[("v-1", false)]).await.unwrap();
    let revision = node.until(0, S::Running).await.last().unwrap().revision;
    node.start_with("other", "r2", &wanted, &[("v-1", false)]).await.unwrap();
    let up = node.until(revision, S::Running).await;
    assert!(told(up.last().unwrap()), "{up:?}");
    let given = world.ids.lock().unwrap().clone();
    assert_eq!(given[UID], given["other"]);
}
