use serde_json::Value;

use crate::fake::stage;

#[tokio::test]
async fn pull_tells_each_step_once_and_the_result_on_stdout() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["image", "pull", "alpine:3.21"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert_eq!(o.out, "alpine:3.21 sha256:0123456789abcdef 8.0 MiB\n");
    assert_eq!(
        o.err,
        "pull image resolving\npull aabbccddeeff downloading 2.0 KiB\npull aabbccddeeff done 2.0 KiB\npull image done\n"
    );
}

#[tokio::test]
async fn a_pull_that_fails_says_why() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["image", "pull", "broken:1"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, ""));
    assert!(o.err.contains("error: cannot pull broken:1: the registry has no such tag\nhint: "), "{}", o.err);
}

#[tokio::test]
async fn list_remove_prune() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["image", "list"]).await;
    assert!(o.out.contains("docker.io/library/alpine:3.21  0123456789ab  8.0 MiB"), "{}", o.out);
    let json: Value = serde_json::from_str(&cordium.run(&["image", "ls", "-o", "json"]).await.out).unwrap();
    assert_eq!(json["items"][0]["inUse"], true);
    let o = cordium.run(&["image", "rm", "used", "old"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, "removed old, freed 1.0 KiB\n"));
    assert!(o.err.contains("in use"));
    assert_eq!(cordium.run(&["image", "prune", "-a"]).await.out, "removed old:1\nfreed 3.0 MiB\n");
}
