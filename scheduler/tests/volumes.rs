//! Volumes: what is refused, who holds one, where it ties a workspace to, and that deleted data goes sooner or later.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, PATIENCE, Scheduler, memory, workspace};
use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, GetRequest, Kind, ListRequest, Resource, StartWorkspaceRequest,
    UpdateRequest, VolumeStatus, WorkspaceState as S, volume_status::State,
};
use tonic::{Code, Status};

const SHARED: &str = r#"{"accessMode":"ACCESS_MODE_SHARED"}"#;

fn volume(name: &str, spec: &str) -> CreateRequest {
    CreateRequest {
        kind: Kind::Volume.into(),
        name: name.into(),
        spec_json: spec.into(),
        ..Default::default()
    }
}

fn mounting(volumes: &[&str]) -> String {
    let mounts: Vec<_> = volumes
        .iter()
        .map(|name| {
            format!(r#"{{"volumeRef":{{"name":"{name}"}},"mountPath":"/mnt/{}"}}"#, name.replace('.', "-"))
        })
        .collect();
    format!(
        r#"{{"limit":{{"memory":{{"megabytes":100}}}},"runtime":{{"volumeMounts":[{}]}}}}"#,
        mounts.join(",")
    )
}

async fn create(s: &Scheduler, request: CreateRequest) -> Result<Resource, Status> {
    s.control().create(request).await.map(tonic::Response::into_inner)
}

async fn get(s: &Scheduler, reference: &str) -> Result<Resource, Status> {
    let request = GetRequest { kind: Kind::Volume.into(), r#ref: reference.into(), ..Default::default() };
    s.control().get(request).await.map(tonic::Response::into_inner)
}

async fn status(s: &Scheduler, reference: &str) -> VolumeStatus {
    get(s, reference).await.unwrap().volume_status.unwrap()
}

async fn delete(s: &Scheduler, kind: Kind, reference: &str) -> Result<Vec<String>, Status> {
    let request = DeleteResourceRequest { kind: kind.into(), r#ref: reference.into(), ..Default::default() };
    s.control().delete(request).await.map(|answer| answer.into_inner().warnings)
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, texts: &[&str]) {
    let error = answer.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    for text in texts {
        assert!(error.message().contains(text), "{text:?} is not in {:?}", error.message());
    }
}

async fn one_node() -> (Scheduler, FakeNode, common::Up, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 64_000);
    let up = node.up();
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    (s, node, up, dir)
}

#[tokio::test]
async fn a_volume_is_pending_until_it_is_mounted_and_then_ready() {
    let (s, node, _up, _dir) = one_node().await;
    let made = create(&s, volume("data", r#"{"size":{"megabytes":64}}"#)).await.unwrap();
    assert_eq!(made.space, "default");
    assert_eq!(made.spec_json, r#"{"size":{"megabytes":64},"accessMode":"ACCESS_MODE_EXCLUSIVE"}"#);
    let status = made.volume_status.unwrap();
    assert_eq!((status.state(), status.node.as_str(), status.capacity_mib), (State::Pending, "", 64));
    assert!(status.warnings[0].contains("not enforced"), "{status:?}");
    let uid = made.metadata.unwrap().uid;

    s.create("w", &mounting(&["data.default"])).await;
    s.start("w").await.unwrap();
    s.until_state("w", S::Running).await;
    let start = node.with(|n| n.starts[0].clone());
    let given: Vec<_> =
        start.volumes.iter().map(|v| (v.uid.as_str(), v.name.as_str(), v.exclusive, v.size_mib)).collect();
    assert_eq!(given, [(uid.as_str(), "data", true, 64)]);
    let spec: serde_json::Value = serde_json::from_str(&start.spec_json).unwrap();
    let reference = &spec["runtime"]["volumeMounts"][0]["volumeRef"];
    assert_eq!((&reference["uid"], &reference["name"]), (&uid.clone().into(), &"data".into()));

    for reference in ["data", "data.default", &uid] {
        let status = self::status(&s, reference).await;
        assert_eq!((status.state(), status.node.as_str()), (State::Ready, "n1"));
        assert!(status.ready_at.is_some());
        assert_eq!(status.mounted_by, ["w"]);
    }
    s.stop("w").await.unwrap();
    s.until_state("w", S::Stopped).await;
    let status = self::status(&s, "data").await;
    assert_eq!((status.state(), status.mounted_by.len()), (State::Ready, 0));
    let request = ListRequest { kind: Kind::Volume.into(), ..Default::default() };
    let items = s.control().list(request).await.unwrap().into_inner().items;
    assert_eq!((items.len(), items[0].volume_status.as_ref().unwrap().state()), (1, State::Ready));
}

#[tokio::test]
async fn refusals_leave_nothing() {
    let (s, _node, _up, _dir) = one_node().await;
    create(&s, volume("taken", "")).await.unwrap();
    let other = CreateRequest { kind: Kind::Space.into(), name: "team".into(), ..Default::default() };
    create(&s, other).await.unwrap();
    let elsewhere = CreateRequest { space: "team".into(), ..volume("theirs", "") };
    let theirs = create(&s, elsewhere).await.unwrap().metadata.unwrap().uid;
    let by = |reference: &str| {
        workspace(
            "w",
            &format!(r#"{{"runtime":{{"volumeMounts":[{{"volumeRef":{reference},"mountPath":"/d"}}]}}}}"#),
        )
    };
    let here = "spec.runtime.volumeMounts[0]";
    for (request, code, text) in [
        (volume("Bad", ""), Code::InvalidArgument, "name: was \"Bad\"".to_owned()),
        (volume("a/b", ""), Code::InvalidArgument, "name: was \"a/b\"".to_owned()),
        (volume("..", ""), Code::InvalidArgument, "name: was \"..\"".to_owned()),
        (volume("", ""), Code::InvalidArgument, "name: was \"\"".to_owned()),
        (volume("taken", ""), Code::AlreadyExists, "volume \"taken\" exists already".to_owned()),
        (
            volume("v", r#"{"size":{"megabytes":0}}"#),
            Code::InvalidArgument,
            "spec.size.megabytes: was 0".to_owned(),
        ),
        (volume("v", r#"{"size":-1}"#), Code::InvalidArgument, "spec.size".to_owned()),
        (
            volume("v", r#"{"accessMode":"RWX"}"#),
            Code::InvalidArgument,
            "spec.accessMode: was \"RWX\"; allowed: ACCESS_MODE_EXCLUSIVE, ACCESS_MODE_SHARED".to_owned(),
        ),
        (volume("v", r#"{"path":"/etc"}"#), Code::InvalidArgument, "path".to_owned()),
        (
            CreateRequest { node: "n9".into(), ..volume("v", "") },
            Code::InvalidArgument,
            "node: was \"n9\"; allowed: n1".to_owned(),
        ),
        (CreateRequest { start: true, ..volume("v", "") }, Code::InvalidArgument, "start".to_owned()),
        (CreateRequest { node: "n1".into(), ..workspace("w", "") }, Code::InvalidArgument, "node".to_owned()),
        (
            by(r#"{"name":"missing"}"#),
            Code::InvalidArgument,
            format!("{here}.volumeRef: was \"missing\"; there is no such volume in space \"default\""),
        ),
        (by(r#"{"name":"theirs.team"}"#), Code::InvalidArgument, "name only one of".to_owned()),
        (
            by(&format!(r#"{{"uid":"{theirs}"}}"#)),
            Code::InvalidArgument,
            "there is no such volume in space \"default\"".to_owned(),
        ),
        (
            by(&format!(r#"{{"name":"taken","uid":"{theirs}"}}"#)),
            Code::InvalidArgument,
            "give one of them".to_owned(),
        ),
        (by("{}"), Code::InvalidArgument, format!("{here}.volumeRef: was empty")),
        (by(r#"{"name":"../taken"}"#), Code::InvalidArgument, format!("{here}.volumeRef.name")),
        (
            workspace("w", &mounting(&["taken", "taken"])),
            Code::InvalidArgument,
            "volumeMounts[1].mountPath".to_owned(),
        ),
    ] {
        let what = format!("{request:.200?}");
        let error = create(&s, request).await.unwrap_err();
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.message().contains(&text), "{what}: {}", error.message());
        assert!(!error.message().contains('\n'), "one line: {}", error.message());
    }
    let count = |kind: Kind| {
        let mut control = s.control();
        let request = ListRequest { kind: kind.into(), ..Default::default() };
        async move { control.list(request).await.unwrap().into_inner().items.len() }
    };
    assert_eq!((count(Kind::Volume).await, count(Kind::Workspace).await), (2, 0));
    // What the vars of a start complete is checked as far as it goes.
    let open = r#"{"image":{"registry":{"url":"${{ vars.I }}"}},"runtime":{"volumeMounts":[{"volumeRef":{"name":"missing"},"mountPath":"/d"}]}}"#;
    refused(create(&s, workspace("w", open)).await, Code::InvalidArgument, &["\"missing\""]);
}

#[tokio::test]
async fn an_exclusive_volume_has_one_holder_and_a_shared_one_several() {
    let (s, node, _up, _dir) = one_node().await;
    create(&s, volume("one", "")).await.unwrap();
    create(&s, volume("many", SHARED)).await.unwrap();
    s.create("a", &mounting(&["one", "many"])).await;
    s.create("b", &mounting(&["many", "one"])).await;
    s.create("c", &mounting(&["many"])).await;
    s.start("a").await.unwrap();
    s.until_state("a", S::Running).await;
    refused(s.start("b").await, Code::FailedPrecondition, &["\"one\"", "workspace \"a\"", "exclusive"]);
    let refused_one = s.status("b").await;
    assert_eq!((refused_one.state(), refused_one.run), (S::Stopped, None), "nothing has begun");
    assert_eq!(node.with(|n| n.starts.len()), 1);
    s.start("c").await.unwrap();
    s.until_state("c", S::Running).await;
    assert_eq!(status(&s, "many").await.mounted_by, ["a", "c"]);
    s.stop("a").await.unwrap();
    s.until_state("a", S::Stopped).await;
    s.start("b").await.unwrap();
    s.until_state("b", S::Running).await;
    assert_eq!(status(&s, "one").await.mounted_by, ["b"]);
    refused(s.start("a").await, Code::FailedPrecondition, &["workspace \"b\""]);
    // The holder's own next run is not refused.
    s.stop("b").await.unwrap();
    s.until_state("b", S::Stopped).await;
    s.start("b").await.unwrap();
}

#[tokio::test]
async fn holders_are_known_after_the_schedulers_sudden_end() {
    let (s, node, _up, dir) = one_node().await;
    create(&s, volume("one", "")).await.unwrap();
    for name in ["a", "b"] {
        s.create(name, &mounting(&["one"])).await;
    }
    s.start("a").await.unwrap();
    drop(s);
    let s = Scheduler::up(dir.path(), &[&node]).await;
    s.reachable("n1", true).await;
    refused(s.start("b").await, Code::FailedPrecondition, &["workspace \"a\""]);
    s.until_state("a", S::Running).await;
    let holder = cordium_proto::v1::Failure { message: "it broke".into(), r#type: None };
    node.fail(&s.get("a").await.metadata.unwrap().uid, holder);
    s.until_state("a", S::Stopped).await;
    s.start("b").await.unwrap();
}

#[tokio::test]
async fn a_volume_ties_workspaces_to_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (FakeNode::new(dir.path(), "a", 8000), FakeNode::new(dir.path(), "b", 2000));
    let _up = (a.up(), b.up());
    let s = Scheduler::up(dir.path(), &[&a, &b]).await;
    s.reachable("a", true).await;
    s.reachable("b", true).await;
    let on = |node: &str, request| CreateRequest { node: node.into(), ..request };
    create(&s, on("a", volume("here", SHARED))).await.unwrap();
    create(&s, on("b", volume("there", SHARED))).await.unwrap();
    create(&s, volume("free", SHARED)).await.unwrap();
    // Best fit alone would choose b.
    for (name, volumes, node) in
        [("w1", &["here"][..], "a"), ("w2", &["free"], "b"), ("w3", &["there", "free"], "b")]
    {
        s.create(name, &mounting(volumes)).await;
        s.start(name).await.unwrap();
        assert_eq!(s.until_state(name, S::Running).await.node, node, "{name}");
    }
    assert_eq!(status(&s, "free").await.node, "b");
    s.create("torn", &mounting(&["here", "free"])).await;
    refused(s.start("torn").await, Code::FailedPrecondition, &["\"free\"", "\"b\"", "\"here\"", "\"a\""]);
    s.create("asked", &mounting(&["free"])).await;
    let request = StartWorkspaceRequest { r#ref: "asked".into(), node: "a".into(), ..Default::default() };
    refused(s.control().start_workspace(request).await, Code::FailedPrecondition, &["\"free\"", "\"b\""]);
    // A workspace's own storage counts as well.
    s.create("kept", &memory(100)).await;
    let request = StartWorkspaceRequest { r#ref: "kept".into(), node: "a".into(), ..Default::default() };
    s.control().start_workspace(request).await.unwrap();
    s.until_state("kept", S::Running).await;
    s.stop("kept").await.unwrap();
    s.until_state("kept", S::Stopped).await;
    let request = UpdateRequest {
        kind: Kind::Workspace.into(),
        r#ref: "kept".into(),
        spec_json: Some(mounting(&["free"])),
        ..Default::default()
    };
    s.control().update(request).await.unwrap();
    refused(s.start("kept").await, Code::FailedPrecondition, &["workspace \"kept\" belongs on \"a\""]);
}

#[tokio::test]
async fn the_size_grows_and_the_mode_stays() {
    let (s, _node, _up, _dir) = one_node().await;
    create(&s, volume("v", r#"{"size":{"megabytes":100}}"#)).await.unwrap();
    let update = |spec: &str| UpdateRequest {
        kind: Kind::Volume.into(),
        r#ref: "v".into(),
        spec_json: Some(spec.into()),
        ..Default::default()
    };
    let grown = s.control().update(update(r#"{"size":{"megabytes":200}}"#)).await.unwrap().into_inner();
    assert_eq!(grown.volume_status.unwrap().capacity_mib, 200);
    for (spec, text) in [
        (r#"{"size":{"megabytes":199}}"#, "at least 200"),
        (
            r#"{"size":{"megabytes":200},"accessMode":"ACCESS_MODE_SHARED"}"#,
            "spec.accessMode: cannot be changed",
        ),
        (r#"{"size":{"megabytes":99999999}}"#, "spec.size.megabytes: was 99999999"),
    ] {
        refused(s.control().update(update(spec)).await, Code::InvalidArgument, &[text]);
    }
    assert_eq!(status(&s, "v").await.capacity_mib, 200);
}

#[tokio::test]
async fn what_is_in_use_is_kept_and_deleted_data_goes() {
    let (s, node, _up, _dir) = one_node().await;
    let uid = create(&s, volume("v", "")).await.unwrap().metadata.unwrap().uid;
    s.create("w", &mounting(&["v"])).await;
    refused(
        delete(&s, Kind::Volume, "v").await,
        Code::FailedPrecondition,
        &["\"v\" is used by workspace \"w\""],
    );
    s.start("w").await.unwrap();
    s.until_state("w", S::Running).await;
    refused(
        delete(&s, Kind::Volume, "v").await,
        Code::FailedPrecondition,
        &["\"v\" is mounted by workspace \"w\""],
    );
    // The run goes on with what it began with.
    let request = UpdateRequest {
        kind: Kind::Workspace.into(),
        r#ref: "w".into(),
        spec_json: Some("{}".into()),
        ..Default::default()
    };
    s.control().update(request).await.unwrap();
    refused(delete(&s, Kind::Volume, "v").await, Code::FailedPrecondition, &["mounted by"]);
    refused(delete(&s, Kind::Space, "default").await, Code::FailedPrecondition, &["not empty"]);
    s.stop("w").await.unwrap();
    s.until_state("w", S::Stopped).await;
    assert!(node.with(|n| n.deleted_volumes.is_empty()));
    assert!(delete(&s, Kind::Volume, "v").await.unwrap().is_empty());
    assert_eq!(node.with(|n| n.deleted_volumes.clone()), [uid]);
    refused(get(&s, "v").await, Code::NotFound, &["there is no volume \"v\""]);
    refused(delete(&s, Kind::Volume, "v").await, Code::NotFound, &[]);
    // One that was never mounted is on no node.
    create(&s, volume("v", "")).await.unwrap();
    assert!(delete(&s, Kind::Volume, "v").await.unwrap().is_empty());
    assert_eq!(node.with(|n| n.deleted_volumes.len()), 1);
}

#[tokio::test]
async fn a_templates_mounts_count() {
    let (s, _node, _up, _dir) = one_node().await;
    create(&s, volume("t", "")).await.unwrap();
    create(&s, volume("own", "")).await.unwrap();
    let template = CreateRequest {
        kind: Kind::Template.into(),
        name: "with".into(),
        spec_json: mounting(&["t"]).replace(r#""limit":{"memory":{"megabytes":100}},"#, ""),
        ..Default::default()
    };
    create(&s, template).await.unwrap();
    create(&s, CreateRequest { template: "with".into(), ..workspace("w", &mounting(&["own"])) })
        .await
        .unwrap();
    s.start("w").await.unwrap();
    s.until_state("w", S::Running).await;
    for name in ["t", "own"] {
        assert_eq!(status(&s, name).await.mounted_by, ["w"]);
    }
    s.stop("w").await.unwrap();
    s.until_state("w", S::Stopped).await;
    refused(delete(&s, Kind::Volume, "t").await, Code::FailedPrecondition, &["used by workspace \"w\""]);
}

#[tokio::test]
async fn what_a_node_cannot_delete_now_it_is_asked_for_again() {
    let (s, node, up, dir) = one_node().await;
    let mut uids = Vec::new();
    for name in ["gone", "busy"] {
        let request = CreateRequest { node: "n1".into(), ..volume(name, "") };
        uids.push(create(&s, request).await.unwrap().metadata.unwrap().uid);
    }
    node.with(|n| n.keep_volumes = Some(Status::failed_precondition("a run that was given up uses it")));
    let left = delete(&s, Kind::Volume, "busy").await.unwrap();
    assert!(left[0].contains("given up") && left[0].contains("volume busy on node n1"), "{left:?}");
    drop(up);
    s.reachable("n1", false).await;
    let left = delete(&s, Kind::Volume, "gone").await.unwrap();
    assert!(left[0].contains("volume gone on node n1"), "{left:?}");
    refused(get(&s, "gone").await, Code::NotFound, &[]);
    // Neither the node's absence nor our own end makes it forgotten.
    drop(s);
    node.with(|n| n.keep_volumes = None);
    let _up = node.up();
    let _s = Scheduler::up(dir.path(), &[&node]).await;
    let deleted = async {
        while node.with(|n| uids.iter().any(|uid| !n.deleted_volumes.contains(uid))) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, deleted).await.expect("both are deleted");
}

#[tokio::test]
async fn a_space_has_only_so_many() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up_with(dir.path(), &[], |config| config.max_volumes_per_space = 2).await;
    for name in ["a", "b"] {
        create(&s, volume(name, "")).await.unwrap();
    }
    refused(create(&s, volume("c", "")).await, Code::ResourceExhausted, &["allowed: 2"]);
    let space = CreateRequest { kind: Kind::Space.into(), name: "team".into(), ..Default::default() };
    create(&s, space).await.unwrap();
    create(&s, CreateRequest { space: "team".into(), ..volume("c", "") }).await.unwrap();
}
