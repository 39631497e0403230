use std::{process::Stdio, time::Duration};

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::fake::{finish, stage};

const DEMO: &str = "apiVersion: cordium/v1\nkind: Workspace\nmetadata: {name: demo}\n\
                    spec: {image: {registry: {url: 'alpine:3.21'}}}\n";

#[tokio::test]
async fn create_prints_the_resource_as_json_and_yaml() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium
        .run(&["create", "workspace", "dev", "--image", "alpine:3", "--memory", "1G", "-o", "json"])
        .await;
    assert_eq!(o.code, 0, "{}", o.err);
    let made: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((&made["apiVersion"], &made["kind"]), (&"cordium/v1".into(), &"Workspace".into()));
    assert_eq!(made["metadata"]["name"], "dev");
    assert_eq!(made["spec"]["limit"]["memory"]["megabytes"], 1024);
    assert_eq!(made["status"]["state"], "STOPPED");
    let o = cordium.run(&["get", "ws", "dev", "-o", "yaml"]).await;
    let yaml: Value = serde_saphyr::from_str(&o.out).unwrap();
    assert_eq!(yaml["metadata"]["uid"], "uid-dev");
}

#[tokio::test]
async fn lists() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["get", "workspaces"]).await;
    assert_eq!((o.code, o.out.as_str()), (0, ""));
    for name in ["b", "a"] {
        cordium.run(&["create", "ws", name]).await;
    }
    let o = cordium.run(&["get", "workspaces", "-o", "name"]).await;
    assert_eq!(o.out, "workspace/a\nworkspace/b\n");
    let o = cordium.run(&["get", "workspaces", "-o", "json"]).await;
    let list: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("WorkspaceList"), 2));
    assert!(cordium.run(&["get", "ws"]).await.out.starts_with("NAME  STATE"));
    assert!(cordium.run(&["get", "ws", "-o", "wide"]).await.out.contains("uid-a"));
}

#[tokio::test]
async fn what_is_wrong_in_a_file_is_told_with_its_field_and_nothing_is_sent() {
    let (dir, fake, cordium) = stage().await;
    let file = dir.path().join("ws.yaml");
    std::fs::write(&file, DEMO.replace("registry", "registri")).unwrap();
    let path = file.to_str().unwrap();
    for args in [vec!["create", "ws", "-f", path], vec!["apply", "-f", path], vec!["run", "-f", path]] {
        let o = cordium.run(&args).await;
        assert_eq!(o.code, 2, "{}", o.err);
        assert!(
            o.err.contains("spec.image") && o.err.contains("hint: `cordium schema workspace`"),
            "{}",
            o.err
        );
    }
    fake.seen(|s| assert!(s.created.is_empty()));
}

#[tokio::test]
async fn apply_creates_then_updates_then_leaves_alone() {
    let (dir, fake, cordium) = stage().await;
    let file = dir.path().join("all.yaml");
    let template = "---\napiVersion: cordium/v1\nkind: Template\nmetadata: {name: base}\nspec: {}\n";
    std::fs::write(&file, format!("{DEMO}{template}")).unwrap();
    let args = ["apply", "-f", file.to_str().unwrap()];
    assert_eq!(cordium.run(&args).await.out, "template/base created\nworkspace/demo created\n");
    assert_eq!(cordium.run(&args).await.out, "template/base unchanged\nworkspace/demo unchanged\n");
    std::fs::write(&file, DEMO.replace("3.21", "3.22")).unwrap();
    assert_eq!(cordium.run(&args).await.out, "workspace/demo updated\n");
    fake.seen(|s| assert_eq!(s.updated.len(), 1));
}

#[tokio::test]
async fn errors_carry_message_hint_and_code() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["delete", "ws", "absent"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, ""));
    assert_eq!(
        o.err,
        "error: cannot delete workspace absent: \"absent\" does not exist\nhint: look in the fake\n"
    );
    cordium.run(&["create", "ws", "dev"]).await;
    let o = cordium.run(&["create", "ws", "dev", "-o", "json"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, ""));
    assert!(o.err.contains("hint: choose another name"), "{}", o.err);
    let o = cordium.run(&["get", "ws", "absent", "-o", "json"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, ""));
}

#[tokio::test]
async fn delete_goes_on_after_one_that_cannot_be_deleted() {
    let (_dir, fake, cordium) = stage().await;
    for name in ["a", "b"] {
        cordium.run(&["create", "ws", name]).await;
    }
    let o = cordium.run(&["delete", "ws", "a", "absent", "b"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, "workspace/a deleted\nworkspace/b deleted\n"));
    fake.seen(|s| assert_eq!(s.deleted, ["a", "b"]));
    assert_eq!(cordium.run(&["delete", "ws", "absent", "--ignore-not-found"]).await.code, 0);
}

#[tokio::test]
async fn delete_by_force_tells_what_is_left() {
    let (_dir, fake, cordium) = stage().await;
    cordium.run(&["create", "ws", "a"]).await;
    let o = cordium.run(&["delete", "ws", "a", "--force"]).await;
    assert_eq!((o.code, o.out.as_str()), (0, "workspace/a deleted\n"));
    assert_eq!(o.err, "warning: node a does not answer\n");
    fake.seen(|s| assert_eq!(s.deleted, ["a"]));
}

#[tokio::test]
async fn a_secret_comes_from_stdin_a_file_or_the_environment() {
    let (dir, fake, cordium) = stage().await;
    let mut child = cordium.command(&["create", "secret", "one", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from stdin\n").await.unwrap();
    assert_eq!(finish(child).await.code, 0);
    let file = dir.path().join("secret");
    std::fs::write(&file, b"from\0file\n").unwrap();
    let o = cordium.run(&["create", "secret", "two", "--from-file", file.to_str().unwrap()]).await;
    assert_eq!(o.out, "secret/two created\n");
    let mut command = cordium.command(&["create", "secret", "three", "--from-env", "MY_TOKEN"]);
    assert_eq!(finish(command.env("MY_TOKEN", "from env").spawn().unwrap()).await.code, 0);
    let o = cordium.run(&["create", "secret", "four", "--value", "seen"]).await;
    assert!(o.err.contains("warning: --value"), "{}", o.err);
    fake.seen(|s| {
        let data: Vec<&[u8]> = s.created.iter().map(|c| &c.secret_data[..]).collect();
        assert_eq!(data, [&b"from stdin"[..], b"from\0file\n", b"from env", b"seen"]);
    });
    assert_eq!(cordium.run(&["create", "secret", "five"]).await.code, 2);
}

#[tokio::test]
async fn start_and_stop_are_accepted_or_waited_for() {
    let (_dir, fake, cordium) = stage().await;
    cordium.run(&["create", "ws", "dev"]).await;
    let o = cordium.run(&["start", "dev", "--wait", "--var", "A=1"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("phase RUNNING"));
    let o = cordium.run(&["stop", "dev", "--wait"]).await;
    assert_eq!(o.err, "phase STOPPING_REQUEST 1.00s\nphase STOPPING 1.00s\nphase STOPPED\n");
    fake.0.seen.lock().unwrap().stopped.clear();
    assert_eq!(cordium.run(&["start", "dev", "--wait"]).await.code, 0);
    let o = cordium.run(&["stop", "dev"]).await;
    assert_eq!((o.code, o.err.as_str()), (0, "workspace dev is stopping\n"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let o = cordium.run(&["stop", "dev"]).await;
    assert_eq!(o.code, 1);
    assert!(o.err.contains("workspace is stopped"), "{}", o.err);
    fake.seen(|s| assert_eq!(s.started[0].vars["A"], "1"));
}

#[tokio::test]
async fn status_and_version_tell_the_server_s() {
    let (_dir, _fake, cordium) = stage().await;
    let o = cordium.run(&["version", "-o", "json"]).await;
    let version: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!(version["server"]["version"], "9.9.9");
    assert_eq!(version["client"]["version"], env!("CARGO_PKG_VERSION"));
    let o = cordium.run(&["status"]).await;
    assert!(o.out.contains("2 RUNNING") && o.out.contains("fake  yes"), "{}", o.out);
    let status: Value = serde_json::from_str(&cordium.run(&["status", "-o", "json"]).await.out).unwrap();
    assert_eq!(status["workspacesByState"]["RUNNING"], 2);
}

#[tokio::test]
async fn volumes_have_a_command_of_their_own() {
    let (dir, fake, cordium) = stage().await;
    let o = cordium.run(&["volume", "create", "cache", "--size", "2G", "--shared", "--node", "n1"]).await;
    assert_eq!((o.code, o.out.as_str()), (0, "volume/cache created\n"), "{}", o.err);
    let o = cordium.run(&["create", "vol", "data", "-o", "json"]).await;
    let made: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!(made["kind"], "Volume");
    assert_eq!(made["spec"]["accessMode"], "ACCESS_MODE_EXCLUSIVE");
    assert_eq!(made["spec"]["size"]["megabytes"], 10_000);
    assert_eq!(made["status"]["state"], "PENDING");
    assert_eq!(made["status"]["warnings"][0], "the size is not enforced");
    fake.seen(|s| {
        let spec: Value = serde_json::from_str(&s.created[0].spec_json).unwrap();
        assert_eq!((&spec["size"]["megabytes"], s.created[0].node.as_str()), (&2048.into(), "n1"));
        assert_eq!(spec["accessMode"], "ACCESS_MODE_SHARED");
    });
    let o = cordium.run(&["volume", "list"]).await;
    let row = o.out.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(o.out.starts_with("NAME   STATE"), "{}", o.out);
    assert!(row.starts_with("cache PENDING 10000MiB shared n1 - default"), "{row}");
    assert_eq!(cordium.run(&["volume", "get", "data", "-o", "name"]).await.out, "volume/data\n");
    assert!(cordium.run(&["get", "volumes", "-o", "yaml"]).await.out.contains("kind: VolumeList"));
    let o = cordium.run(&["volume", "delete", "cache", "absent", "data"]).await;
    assert_eq!((o.code, o.out.as_str()), (1, "volume/cache deleted\nvolume/data deleted\n"));

    let file = dir.path().join("v.yaml");
    std::fs::write(
        &file,
        "apiVersion: cordium/v1\nkind: Volume\nmetadata: {name: v}\nspec: {size: {megabytes: 64}}\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(cordium.run(&["apply", "-f", path]).await.out, "volume/v created\n");
    assert_eq!(cordium.run(&["apply", "-f", path]).await.out, "volume/v unchanged\n");
}

#[tokio::test]
async fn what_is_wrong_with_a_volume_is_told_before_it_is_sent() {
    let (_dir, fake, cordium) = stage().await;
    for (args, text) in [
        (vec!["volume", "create", "Not/ok"], "choose a name"),
        (vec!["volume", "create", "v", "--size", "1"], "spec.size.megabytes: was 1; allowed: 16 to"),
        (vec!["volume", "create", "v", "--size", "lots"], "was \"lots\""),
        (vec!["create", "ws", "w", "--volume", "data"], "expected NAME:PATH"),
        (vec!["create", "ws", "w", "--volume", "data:relative"], "expected NAME:PATH"),
        (vec!["create", "ws", "w", "--volume", "data:/d:rx"], "expected NAME:PATH"),
        (
            vec!["create", "ws", "w", "--volume", "data:/proc"],
            "spec.runtime.volumeMounts[0].mountPath: was \"/proc\"",
        ),
        (vec!["create", "ws", "w", "--volume", "D/../x:/d"], "spec.runtime.volumeMounts[0].volumeRef.name"),
        (vec!["create", "ws", "w", "--volume", "a:/d", "--volume", "b:/d/e"], "volumeMounts[1].mountPath"),
    ] {
        let o = cordium.run(&args).await;
        assert_eq!(o.code, 2, "{args:?}: {}", o.err);
        assert!(o.err.contains(text), "{args:?}: {}", o.err);
    }
    fake.seen(|s| assert!(s.created.is_empty()));
    let o = cordium.run(&["create", "ws", "w", "--volume", "data:/d:ro", "-o", "json"]).await;
    let made: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!(made["spec"]["runtime"]["volumeMounts"][0]["readOnly"], true);
}
