//! Resources: creation, refusals that leave nothing, secrets at rest, what may be deleted, limits.
#![allow(clippy::unwrap_used)]

mod common;

use common::{FakeNode, Scheduler, workspace};
use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, GetRequest, Kind, ListRequest, Resource, SharePortRequest,
    UpdateRequest, WorkspaceState as S, shared_port::Mode,
};
use tonic::{Code, Status};

async fn alone() -> (Scheduler, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Scheduler::up(dir.path(), &[]).await, dir)
}

async fn create(s: &Scheduler, request: CreateRequest) -> Result<Resource, Status> {
    s.control().create(request).await.map(tonic::Response::into_inner)
}

async fn list(s: &Scheduler, kind: Kind) -> Vec<String> {
    let request = ListRequest { kind: kind.into(), ..Default::default() };
    let items = s.control().list(request).await.unwrap().into_inner().items;
    items.into_iter().map(|r| r.metadata.unwrap().name).collect()
}

async fn delete(s: &Scheduler, kind: Kind, reference: &str) -> Result<(), Status> {
    let request = DeleteResourceRequest { kind: kind.into(), r#ref: reference.into(), ..Default::default() };
    s.control().delete(request).await.map(|_| ())
}

fn named(kind: Kind, name: &str, space: &str) -> CreateRequest {
    CreateRequest { kind: kind.into(), name: name.into(), space: space.into(), ..Default::default() }
}

fn secret(name: &str, data: &[u8]) -> CreateRequest {
    CreateRequest { secret_data: bytes::Bytes::copy_from_slice(data), ..named(Kind::Secret, name, "") }
}

#[tokio::test]
async fn defaults_are_made_on_first_use_and_references_resolve() {
    let (s, _dir) = alone().await;
    assert!(list(&s, Kind::Space).await.is_empty());
    let made = s.create("web", "").await;
    assert_eq!((made.space.as_str(), made.spec_json.as_str()), ("default", "{}"));
    assert_eq!(list(&s, Kind::Space).await, ["default"]);
    assert_eq!(list(&s, Kind::Template).await, ["default"]);
    let uid = made.metadata.unwrap().uid;
    for reference in ["web", "web.default", &uid] {
        assert_eq!(s.get(reference).await.metadata.unwrap().uid, uid);
    }
    create(&s, named(Kind::Space, "team", "")).await.unwrap();
    create(&s, named(Kind::Template, "go", "team")).await.unwrap();
    let request = CreateRequest { template: "go.team".into(), ..workspace("web", "{}") };
    let made = create(&s, request).await.unwrap();
    assert_eq!((made.space.as_str(), made.status.unwrap().template.as_str()), ("team", "go"));
    assert_eq!(s.get("web.team").await.space, "team");
    let generated = create(&s, workspace("", "{}")).await.unwrap().metadata.unwrap().name;
    assert!(generated.starts_with("ws-"));
}

#[tokio::test]
async fn refusals_create_nothing() {
    let (s, _dir) = alone().await;
    s.create("taken", "{}").await;
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let long = format!(r#"{{"runtime":{{"cmd":"{}"}}}}"#, "x".repeat(2 << 20));
    let cases = [
        (workspace("Bad_Name", "{}"), Code::InvalidArgument, "name: was \"Bad_Name\""),
        (workspace("a", "{\"bogus\":1}"), Code::InvalidArgument, "bogus"),
        (workspace("a", "{\"isEphemeral\":\"perhaps\"}"), Code::InvalidArgument, "isEphemeral"),
        (workspace("a", "not: [a, spec"), Code::InvalidArgument, ""),
        (workspace("a", &deep), Code::InvalidArgument, ""),
        (workspace("a", &long), Code::InvalidArgument, ""),
        (
            workspace("a", r#"{"runtime":{"tasks":[{"run":"true","type":"FOO"}]}}"#),
            Code::InvalidArgument,
            "tasks[0].type",
        ),
        (
            workspace("a", r#"{"runtime":{"envVars":[{"key":"T","fromSecret":"missing"}]}}"#),
            Code::InvalidArgument,
            "\"missing\"",
        ),
        (
            workspace(
                "a",
                r#"{"vars":[{"name":"A","value":"${{vars.B}}"},{"name":"B","value":"${{vars.A}}"}]}"#,
            ),
            Code::InvalidArgument,
            "cycle",
        ),
        (
            CreateRequest { template: "none".into(), ..workspace("a", "{}") },
            Code::NotFound,
            "template \"none\"",
        ),
        (CreateRequest { space: "none".into(), ..workspace("a", "{}") }, Code::NotFound, "space \"none\""),
        (workspace("taken", "{}"), Code::AlreadyExists, "\"taken\" exists already"),
        (CreateRequest { kind: 0, ..workspace("a", "{}") }, Code::InvalidArgument, "kind: was unset"),
        (named(Kind::Space, "", ""), Code::InvalidArgument, "name: was \"\""),
        (secret("empty", b""), Code::InvalidArgument, "secret_data: was empty"),
        (secret("huge", &vec![0; 65 << 10]), Code::InvalidArgument, "secret_data: has 66560 bytes"),
        (named(Kind::Template, "t", "none"), Code::NotFound, "space \"none\""),
    ];
    for (request, code, text) in cases {
        let what = format!("{request:.200?}");
        let error = create(&s, request).await.unwrap_err();
        assert_eq!(error.code(), code, "{what}: {error}");
        assert!(error.message().contains(text), "{what}: {}", error.message());
        assert!(!error.message().contains('\n'), "one line: {}", error.message());
    }
    assert_eq!(list(&s, Kind::Workspace).await, ["taken"]);
    assert_eq!(list(&s, Kind::Template).await, ["default"]);
    assert_eq!(list(&s, Kind::Space).await, ["default"]);
    assert!(list(&s, Kind::Secret).await.is_empty());
}

#[tokio::test]
async fn a_spec_that_only_the_start_completes_may_be_created() {
    let (s, _dir) = alone().await;
    let spec = r#"{"image":{"registry":{"url":"${{ vars.IMAGE }}"}}}"#;
    s.create("web", spec).await;
    let error = s.start("web").await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("IMAGE"), "{}", error.message());
}

#[tokio::test]
async fn a_refused_start_takes_its_creation_back() {
    let (s, _dir) = alone().await;
    let request = CreateRequest { start: true, ..workspace("web", "{}") };
    let error = create(&s, request).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "there is no node: {error}");
    assert!(list(&s, Kind::Workspace).await.is_empty());
}

#[tokio::test]
async fn secrets_are_write_only_and_sealed_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    const VALUE: &[u8] = b"correct horse battery staple 0123456789";
    const NEXT: &[u8] = b"another quite recognisable value 987654";
    let s = Scheduler::up(dir.path(), &[]).await;
    let made = create(&s, secret("token", VALUE)).await.unwrap();
    assert_eq!(made.spec_json, "{}");
    let request = UpdateRequest {
        kind: Kind::Secret.into(),
        r#ref: "token".into(),
        secret_data: Some(bytes::Bytes::from_static(NEXT)),
        ..Default::default()
    };
    s.control().update(request).await.unwrap();
    let request = GetRequest { kind: Kind::Secret.into(), r#ref: "token".into(), ..Default::default() };
    let got = s.control().get(request).await.unwrap().into_inner();
    let answer = prost::Message::encode_to_vec(&got);
    let holds = |bytes: &[u8], value: &[u8]| bytes.windows(value.len()).any(|w| w == value);
    assert!(!holds(&answer, VALUE) && !holds(&answer, NEXT));
    let mut files = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            files += 1;
            let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
            assert_eq!(mode & 0o077, 0, "{}", path.display());
            let bytes = std::fs::read(&path).unwrap();
            assert!(!holds(&bytes, VALUE) && !holds(&bytes, NEXT), "{}", path.display());
        }
    }
    assert!(files >= 3, "store, journal of the store, key");
    drop(s);

    std::fs::remove_file(dir.path().join("secret.key")).unwrap();
    let config =
        cordium_scheduler::Config::new(&dir.path().join("control.db"), &dir.path().join("secret.key"));
    let error = cordium_scheduler::start(config, Vec::new()).await.err().unwrap();
    assert!(error.to_string().contains("does not open"), "{error}");
}

#[tokio::test]
async fn what_is_in_use_is_kept() {
    let (s, _dir) = alone().await;
    create(&s, secret("token", b"x")).await.unwrap();
    create(&s, named(Kind::Template, "go", "")).await.unwrap();
    let spec = r#"{"runtime":{"envVars":[{"key":"T","fromSecret":"token"}]}}"#;
    create(&s, CreateRequest { template: "go".into(), ..workspace("web", spec) }).await.unwrap();
    for (kind, name) in [(Kind::Space, "default"), (Kind::Template, "go"), (Kind::Secret, "token")] {
        let error = delete(&s, kind, name).await.unwrap_err();
        assert_eq!(error.code(), Code::FailedPrecondition, "{kind:?}: {error}");
    }
    delete(&s, Kind::Workspace, "web").await.unwrap();
    // Its spec is complete only with the vars of a start.
    let spec = r#"{"image":{"registry":{"url":"${{ vars.IMAGE }}"}},
        "runtime":{"envVars":[{"key":"T","fromSecret":"token"}]}}"#;
    create(&s, CreateRequest { template: "go".into(), ..workspace("web", spec) }).await.unwrap();
    assert_eq!(delete(&s, Kind::Secret, "token").await.unwrap_err().code(), Code::FailedPrecondition);
    for (kind, name) in
        [(Kind::Workspace, "web"), (Kind::Secret, "token"), (Kind::Template, "go"), (Kind::Space, "default")]
    {
        delete(&s, kind, name).await.unwrap();
        assert_eq!(delete(&s, kind, name).await.unwrap_err().code(), Code::NotFound);
    }
    assert!(list(&s, Kind::Template).await.is_empty(), "the space's default template goes with it");
}

#[tokio::test]
async fn update_changes_what_is_given() {
    let (s, _dir) = alone().await;
    s.create("web", "{}").await;
    let request = UpdateRequest {
        kind: Kind::Workspace.into(),
        r#ref: "web".into(),
        display_name: Some("The web".into()),
        spec_json: Some(common::memory(256)),
        ..Default::default()
    };
    let updated = s.control().update(request.clone()).await.unwrap().into_inner();
    assert_eq!(updated.metadata.unwrap().display_name, "The web");
    assert_eq!(updated.status.unwrap().limit.unwrap().memory_mib, 256);
    let bad =
        UpdateRequest { display_name: Some("x".into()), spec_json: Some("{\"no\":1}".into()), ..request };
    assert_eq!(s.control().update(bad).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(s.get("web").await.metadata.unwrap().display_name, "The web", "all or nothing");
}

#[tokio::test]
async fn ports_are_shared_by_application() {
    let (s, _dir) = alone().await;
    s.create("web", r#"{"applications":[{"name":"http","port":8080}]}"#).await;
    let request = |app: &str, mode: Mode, unshare| SharePortRequest {
        r#ref: "web".into(),
        application_name: app.into(),
        mode: mode.into(),
        unshare,
        ..Default::default()
    };
    for (app, mode) in [("none", Mode::All), ("http", Mode::Unset)] {
        let error = s.control().share_port(request(app, mode, false)).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
    for mode in [Mode::Members, Mode::All] {
        s.control().share_port(request("http", mode, false)).await.unwrap();
        let shared = s.status("web").await.shared_ports;
        assert_eq!((shared.len(), shared[0].mode()), (1, mode));
    }
    s.control().share_port(request("http", Mode::Unset, true)).await.unwrap();
    assert!(s.status("web").await.shared_ports.is_empty());
}

#[tokio::test]
async fn limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let node = FakeNode::new(dir.path(), "n1", 64_000);
    let _up = node.up();
    let s = Scheduler::up_with(dir.path(), &[&node], |config| {
        config.max_active = 1;
        config.max_workspaces = 2;
    })
    .await;
    s.reachable("n1", true).await;
    s.create("one", "{}").await;
    s.create("two", "{}").await;
    let error = create(&s, workspace("three", "{}")).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    s.start("one").await.unwrap();
    let error = s.start("two").await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert_eq!(s.status("two").await.state(), S::Stopped);
    s.stop("one").await.unwrap();
    s.until_state("one", S::Stopped).await;
    s.start("two").await.unwrap();
}

#[tokio::test]
async fn a_new_space_denies_unless_it_says_otherwise_and_no_update_opens_it_in_passing() {
    let dir = tempfile::tempdir().unwrap();
    let s = Scheduler::up(dir.path(), &[]).await;
    let space = |name: &str, spec: &str| CreateRequest {
        kind: Kind::Space.into(),
        name: name.into(),
        spec_json: spec.into(),
        ..Default::default()
    };
    let public = r#"{"runtime":{"network":{"egress":{"defaultAction":"ALLOW_PUBLIC"}}}}"#;
    let closed = s.control().create(space("closed", "{}")).await.unwrap().into_inner();
    assert!(closed.spec_json.contains(r#""defaultAction":"DENY""#), "{}", closed.spec_json);
    let open = s.control().create(space("open", public)).await.unwrap().into_inner();
    assert_eq!(open.spec_json, public);
    for (name, expected) in [("closed", "DENY"), ("open", "ALLOW_PUBLIC")] {
        let request = UpdateRequest {
            kind: Kind::Space.into(),
            r#ref: name.into(),
            spec_json: Some(r#"{"authorization":{"disableSSH":true}}"#.into()),
            ..Default::default()
        };
        let updated = s.control().update(request).await.unwrap().into_inner();
        assert!(
            updated.spec_json.contains(expected) && updated.spec_json.contains("disableSSH"),
            "{updated:?}"
        );
    }
    // Existed before anybody said anything.
    s.create("here", "{}").await;
    let default = GetRequest { kind: Kind::Space.into(), r#ref: "default".into(), ..Default::default() };
    let default = s.control().get(default).await.unwrap().into_inner();
    assert_eq!(default.spec_json, "{}");
}
