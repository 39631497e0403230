//! WorkspaceAPI and Validation: what is accepted, what is refused, and with which words.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace,
    client::refused,
    ensure, ensure_eq, json,
    v1::{
        CreateRequest, DeleteResourceRequest, GetRequest, Kind, ListRequest, SharePortRequest,
        StartWorkspaceRequest, StopWorkspaceRequest, UpdateRequest, WorkspaceState as State,
        shared_port::Mode,
    },
};
use serde_json::Value;
use tonic::Code;

fn main() -> ExitCode {
    Suite::new("api")
        .case("a_new_workspace_has_its_defaults", a_new_workspace_has_its_defaults)
        .case("get_by_name_and_uid", get_by_name_and_uid)
        .case("list_filters_by_template_and_space", list_filters)
        .case("update_changes_name_and_spec", update_changes_name_and_spec)
        .case("unknown_things_are_not_found", unknown_things_are_not_found)
        .case("wrong_states_are_refused", wrong_states_are_refused)
        .case("names_are_unique_and_valid", names_are_unique_and_valid)
        .case("secrets_are_write_only", secrets_are_write_only)
        .case("bad_specs_are_refused_by_path", bad_specs_are_refused_by_path)
        .case("huge_and_hostile_yaml_is_refused", huge_and_hostile_yaml)
        .case("ports_are_shared_and_unshared", ports_are_shared_and_unshared)
        .case("a_start_with_the_same_key_starts_once", same_key_starts_once)
        .case("health_answers", health_answers)
        .run(|| Fixture::start("api"))
}

fn get(kind: Kind, name: &str) -> GetRequest {
    let mut request = GetRequest { r#ref: name.to_owned(), ..Default::default() };
    request.set_kind(kind);
    request
}

async fn a_new_workspace_has_its_defaults(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("fresh", &f.small(json!({}))).await?;
    let resource = w.get().await?;
    ensure_eq!(resource.space, "default");
    let status = resource.status.context("there is no status")?;
    ensure!(matches!(status.state(), State::Stopped | State::Unknown), "{:?}", status.state());
    ensure!(status.run.is_none() && status.node.is_empty() && status.hostname.is_empty(), "{status:?}");
    ensure_eq!(status.template, "default");
    f.clients.control.clone().get(get(Kind::Template, "default")).await.context("the default template")?;
    f.clients.control.clone().get(get(Kind::Space, "default")).await.context("the default space")?;
    w.delete().await
}

async fn get_by_name_and_uid(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("named", &f.small(json!({}))).await?;
    for reference in ["named", "named.default", &w.uid] {
        let got = f.clients.control.clone().get(get(Kind::Workspace, reference)).await?.into_inner();
        ensure_eq!(got.metadata.map(|metadata| metadata.uid), Some(w.uid.clone()));
    }
    w.delete().await
}

async fn list_filters(f: Arc<Fixture>) -> Result<()> {
    let mut space = CreateRequest { name: "other".into(), spec_json: "{}".into(), ..Default::default() };
    space.set_kind(Kind::Space);
    f.clients.control.clone().create(space).await?;
    let spec = f.small(json!({}));
    let here = f.create("here", &spec).await?;
    let there = CreateRequest {
        name: "there".into(),
        space: "other".into(),
        spec_json: spec.to_string(),
        ..Default::default()
    };
    let there = Workspace::create_with(&f.clients, there).await?;
    let mut request = ListRequest { space: "other".into(), ..Default::default() };
    request.set_kind(Kind::Workspace);
    let items = f.clients.control.clone().list(request).await?.into_inner().items;
    let names: Vec<String> =
        items.into_iter().filter_map(|item| item.metadata).map(|metadata| metadata.name).collect();
    ensure_eq!(names, ["there"]);
    here.delete().await?;
    there.delete().await
}

async fn update_changes_name_and_spec(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("upd", &f.small(json!({}))).await?;
    let spec = f.small(json!({"limit": {"memory": {"megabytes": 123}}}));
    let mut request = UpdateRequest {
        r#ref: w.uid.clone(),
        display_name: Some("A name".into()),
        spec_json: Some(spec.to_string()),
        ..Default::default()
    };
    request.set_kind(Kind::Workspace);
    let updated = f.clients.control.clone().update(request).await?.into_inner();
    ensure_eq!(updated.metadata.map(|metadata| metadata.display_name), Some("A name".to_owned()));
    let stored: Value = serde_json::from_str(&updated.spec_json)?;
    ensure_eq!(stored["limit"]["memory"]["megabytes"], 123);
    w.delete().await
}

async fn unknown_things_are_not_found(f: Arc<Fixture>) -> Result<()> {
    let mut control = f.clients.control.clone();
    let message = refused(control.get(get(Kind::Workspace, "nobody")).await, Code::NotFound)?;
    ensure!(message.contains("nobody"), "{message}");
    refused(
        control.start_workspace(StartWorkspaceRequest { r#ref: "nobody".into(), ..Default::default() }).await,
        Code::NotFound,
    )?;
    let mut delete = DeleteResourceRequest { r#ref: "nobody".into(), ..Default::default() };
    delete.set_kind(Kind::Workspace);
    refused(control.delete(delete).await, Code::NotFound)?;
    let mut create = CreateRequest {
        name: "x".into(),
        template: "nothing".into(),
        spec_json: "{}".into(),
        ..Default::default()
    };
    create.set_kind(Kind::Workspace);
    let message = refused(control.create(create).await, Code::NotFound)?;
    ensure!(message.contains("nothing"), "{message}");
    let secret = f.small(json!({"runtime": {"envVars": [{"key": "A", "fromSecret": "no-such-secret"}]}}));
    let mut create = CreateRequest { name: "x".into(), spec_json: secret.to_string(), ..Default::default() };
    create.set_kind(Kind::Workspace);
    match control.create(create).await {
        Err(status) => ensure!(status.message().contains("no-such-secret"), "{status:?}"),
        Ok(_) => anyhow::bail!("a workspace with an unknown secret was created"),
    }
    ensure!(f.clients.control.clone().get(get(Kind::Workspace, "x")).await.is_err(), "something was created");
    Ok(())
}

async fn wrong_states_are_refused(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("states", &f.small(json!({}))).await?;
    let mut control = f.clients.control.clone();
    let stop = StopWorkspaceRequest { r#ref: w.uid.clone(), ..Default::default() };
    refused(control.stop_workspace(stop).await, Code::InvalidArgument)?;
    w.start().await?;
    let start = StartWorkspaceRequest { r#ref: w.uid.clone(), ..Default::default() };
    refused(control.start_workspace(start).await, Code::FailedPrecondition)?;
    ensure_eq!(w.status().await?.state(), State::Running);
    w.delete().await
}

async fn names_are_unique_and_valid(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("unique", &f.small(json!({}))).await?;
    let create = |name: &str| {
        let mut request = CreateRequest {
            name: name.to_owned(),
            spec_json: f.small(json!({})).to_string(),
            ..Default::default()
        };
        request.set_kind(Kind::Workspace);
        request
    };
    refused(f.clients.control.clone().create(create("unique")).await, Code::AlreadyExists)?;
    for bad in ["UPPER", "with space", "../up", "-dash", &"x".repeat(300), "a/b", "ünï"] {
        refused(f.clients.control.clone().create(create(bad)).await, Code::InvalidArgument)
            .with_context(|| format!("name {bad:?}"))?;
    }
    w.delete().await
}

async fn secrets_are_write_only(f: Arc<Fixture>) -> Result<()> {
    cordium_tests::workspace::put_secret(&f.clients, "hidden", "do-not-show").await?;
    let got = f.clients.control.clone().get(get(Kind::Secret, "hidden")).await?.into_inner();
    ensure!(!format!("{got:?}").contains("do-not-show"), "{got:?}");
    for file in ["control.db", "control.db-wal", "node.db", "node.db-wal"] {
        let bytes = std::fs::read(f.node.state().join(file)).unwrap_or_default();
        ensure!(!bytes.windows(11).any(|window| window == b"do-not-show"), "the secret stands in {file}");
    }
    Ok(())
}

/// Each spec with the path that the error must name.
fn bad_specs() -> Vec<(Value, &'static str)> {
    let task = |change: Value| {
        let mut task = json!({"name": "t", "type": "POST_START", "run": "true"});
        for (key, value) in change.as_object().into_iter().flatten() {
            task[key] = value.clone();
        }
        json!({"runtime": {"tasks": [task]}})
    };
    vec![
        (json!({"unknownField": 1}), "unknownField"),
        (json!({"runtime": {"unknownField": 1}}), "runtime"),
        (json!({"image": {"registry": {"url": ""}}}), "image.registry.url"),
        (json!({"image": {"registry": {"url": 5}}}), "image.registry.url"),
        (json!({"limit": {"memory": {"megabytes": "much"}}}), "limit.memory.megabytes"),
        (json!({"limit": {"memory": {"megabytes": -1}}}), "limit.memory.megabytes"),
        (json!({"limit": {"cpu": {"millicores": 100_000_000}}}), "limit.cpu.millicores"),
        (json!({"limit": {"cpu": {"millicores": 0}}}), "limit.cpu.millicores"),
        (json!({"limit": {"cpu": {"millicores": 1_u64 << 63}}}), "limit.cpu.millicores"),
        (json!({"limit": {"memory": {"megabytes": 0}}}), "limit.memory.megabytes"),
        (json!({"limit": {"memory": {"megabytes": 1_u64 << 63}}}), "limit.memory.megabytes"),
        (json!({"limit": {"memory": {"megabytes": u64::MAX}}}), "limit.memory.megabytes"),
        (json!({"limit": {"memory": {"megabytes": 512.5}}}), "limit.memory.megabytes"),
        (json!({"limit": {"storage": {"megabytes": 0}}}), "limit.storage.megabytes"),
        (json!({"limit": {"storage": {"megabytes": 1_u64 << 63}}}), "limit.storage.megabytes"),
        (json!({"limit": {"pids": 0}}), "limit.pids"),
        (json!({"limit": {"pids": 1_u64 << 63}}), "limit.pids"),
        (json!({"runtime": {"envVars": [{"key": "", "value": "x"}]}}), "runtime.envVars[0].key"),
        (json!({"runtime": {"envVars": [{"key": "A"}]}}), "runtime.envVars[0]"),
        (task(json!({"run": ""})), "runtime.tasks[0].run"),
        (task(json!({"type": "FOO"})), "runtime.tasks[0].type"),
        (task(json!({"timeout": "soon"})), "runtime.tasks[0].timeout"),
        (json!({"runtime": {"tasks": [{"name": "t", "run": "true"}]}}), "runtime.tasks[0]"),
        (json!({"applications": [{"name": "", "port": 80}]}), "applications[0].name"),
        (json!({"applications": [{"name": "a", "port": 0}]}), "applications[0].port"),
        (json!({"applications": [{"name": "a", "port": 65536}]}), "applications[0].port"),
        (
            json!({"applications": [{"name": "a", "port": 1}, {"name": "a", "port": 2}]}),
            "applications[1].name",
        ),
        (
            json!({"applications": [{"name": "a", "port": 1, "isDefault": true}, {"name": "b", "port": 2, "isDefault": true}]}),
            "applications",
        ),
        (json!({"applications": [{"name": "a", "port": -1}]}), "applications[0].port"),
        (json!({"applications": [{"name": "a", "port": "http"}]}), "applications[0].port"),
        (json!({"runtime": {"capabilities": {"add": ["CAN_FLY"]}}}), "runtime.capabilities.add[0]"),
        (json!({"runtime": {"capabilities": {"drop": ["CHOWN", "CAP_"]}}}), "runtime.capabilities.drop[1]"),
        (json!({"runtime": {"capabilities": {"add": [21]}}}), "runtime.capabilities.add[0]"),
        (
            json!({"runtime": {"network": {"egress": {"rules": [{"cidrs": ["10.0.0.0/64"], "action": "ALLOW"}]}}}}),
            "cidrs[0]",
        ),
        (
            json!({"runtime": {"network": {"egress": {"rules": [{"cidrs": ["not-a-cidr"], "action": "ALLOW"}]}}}}),
            "cidrs[0]",
        ),
        (
            json!({"runtime": {"network": {"egress": {"rules": [{"cidrs": ["10.0.0.0/8"], "action": "ALLOW", "ports": [0]}]}}}}),
            "ports[0]",
        ),
        (json!({"repository": {"url": "ftp://example.com/x"}}), "repository.url"),
    ]
}

async fn bad_specs_are_refused_by_path(f: Arc<Fixture>) -> Result<()> {
    for (spec, path) in bad_specs() {
        let mut request =
            CreateRequest { name: "bad".into(), spec_json: spec.to_string(), ..Default::default() };
        request.set_kind(Kind::Workspace);
        let message = refused(f.clients.control.clone().create(request).await, Code::InvalidArgument)
            .with_context(|| spec.to_string())?;
        ensure!(message.contains(path), "{spec}: \"{message}\" does not name {path}");
    }
    ensure!(
        f.clients.control.clone().get(get(Kind::Workspace, "bad")).await.is_err(),
        "something was created"
    );
    Ok(())
}

async fn huge_and_hostile_yaml(f: Arc<Fixture>) -> Result<()> {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let deep = "[".repeat(100_000);
    let large = format!("displayName: {}", "x".repeat(2 << 20));
    // Just beyond what one document may have, in bytes, in values, and by way of anchors.
    let mebibyte = format!("image: {{registry: {{url: a/b}}}}\n#{}\n", "x".repeat(1 << 20));
    let many = format!("vars: [{}]", "{},".repeat(110_000));
    let billion = format!(
        "a: &a [{}]\nb: &b [{}]\nc: [{}]\n",
        "x,".repeat(1000),
        "*a,".repeat(1000),
        "*b,".repeat(1000)
    );
    let twice = "isEphemeral: true\nisEphemeral: false\n";
    let cyclic = "vars:\n- {name: a, value: '${{ vars.b }}'}\n- {name: b, value: '${{ vars.a }}'}\nimage: {registry: {url: '${{ vars.a }}'}}\n";
    let texts: [(&str, &str); 7] = [
        ("bomb", bomb),
        ("deep", &deep),
        ("large", &large),
        ("mebibyte", &mebibyte),
        ("many", &many),
        ("billion", &billion),
        ("twice", twice),
    ];
    for (name, text) in texts {
        let mut request =
            CreateRequest { name: name.into(), spec_json: text.to_owned(), ..Default::default() };
        request.set_kind(Kind::Workspace);
        refused(f.clients.control.clone().create(request).await, Code::InvalidArgument)
            .with_context(|| name.to_owned())?;
        refused(f.clients.control.clone().get(get(Kind::Workspace, name)).await, Code::NotFound)
            .with_context(|| format!("{name}: something was created"))?;
    }
    // A cycle of variables is refused, at the latest when the workspace is to start; it never hangs.
    let mut request =
        CreateRequest { name: "cyclic".into(), spec_json: cyclic.into(), start: true, ..Default::default() };
    request.set_kind(Kind::Workspace);
    let message = refused(f.clients.control.clone().create(request).await, Code::InvalidArgument)?;
    ensure!(message.contains("cycle") && message.contains("a → b → a"), "the cycle is not shown: {message}");
    Ok(())
}

async fn ports_are_shared_and_unshared(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("ports", &f.small(json!({"applications": [{"name": "web", "port": 8080}]}))).await?;
    let share = |name: &str, mode: Mode, unshare: bool| {
        let mut request = SharePortRequest {
            r#ref: w.uid.clone(),
            application_name: name.into(),
            unshare,
            ..Default::default()
        };
        request.set_mode(mode);
        request
    };
    let mut control = f.clients.control.clone();
    for mode in [Mode::Members, Mode::All] {
        control.share_port(share("web", mode, false)).await?;
        let ports = w.status().await?.shared_ports;
        ensure!(
            ports.len() == 1 && ports[0].mode() == mode && ports[0].application_name == "web",
            "{ports:?}"
        );
    }
    ensure!(
        control.share_port(share("nothing", Mode::All, false)).await.is_err(),
        "an unknown application was shared"
    );
    refused(control.share_port(share("web", Mode::Unset, false)).await, Code::InvalidArgument)?;
    control.share_port(share("web", Mode::Unset, true)).await?;
    ensure!(w.status().await?.shared_ports.is_empty(), "it is still shared");
    w.delete().await
}

async fn same_key_starts_once(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("once", &f.small(json!({}))).await?;
    let mut watch = w.watch().await?;
    let request =
        StartWorkspaceRequest { r#ref: w.uid.clone(), idempotency_key: "key-1".into(), ..Default::default() };
    let run = |resource: cordium_tests::v1::Resource| {
        resource.status.and_then(|status| status.run).map(|run| run.id)
    };
    let first = run(f.clients.control.clone().start_workspace(request.clone()).await?.into_inner());
    let second = run(f.clients.control.clone().start_workspace(request).await?.into_inner());
    ensure!(first.is_some() && first == second, "{first:?} and {second:?}");
    watch.running(cordium_tests::workspace::START).await?;
    ensure_eq!(w.status().await?.successful_runs, 1);
    w.delete().await
}

async fn health_answers(f: Arc<Fixture>) -> Result<()> {
    let path = f.node.socket();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
    });
    let channel =
        tonic::transport::Endpoint::from_static("http://localhost").connect_with_connector(connector).await?;
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let request = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let status = health.check(request).await?.into_inner().status();
    ensure_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    Ok(())
}
