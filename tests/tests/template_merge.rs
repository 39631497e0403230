//! TemplateMerge: what a template gives, what the workspace lays over it, and which variable wins.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure_eq, json,
    spec::task,
    v1::CreateRequest,
    workspace::{START, put_secret, put_template},
};

fn main() -> ExitCode {
    Suite::new("template_merge")
        .case("template_and_workspace_are_merged", template_and_workspace_are_merged)
        .case("limits_are_merged_by_dimension", limits_are_merged_by_dimension)
        .run(|| Fixture::start("template_merge"))
}

async fn template_and_workspace_are_merged(f: Arc<Fixture>) -> Result<()> {
    put_secret(&f.clients, "token", "t0ken").await?;
    let template = f.small(json!({
        "vars": [{"name": "GREETING", "value": "template"}, {"name": "ONLY", "value": "here"}],
        "runtime": {
            "envVars": [
                {"key": "FROM_TEMPLATE", "value": "yes"},
                {"key": "TOKEN", "fromSecret": "token"},
                {"key": "GREETING", "value": "${{ vars.GREETING }} ${{vars.ONLY}}"},
            ],
            "tasks": [task("template", "POST_START", "echo 'template ${{ vars.GREETING }}' >> /workspace/tasks")],
        },
    }));
    put_template(&f.clients, "merge", &template).await?;
    let spec = json!({
        "vars": [{"name": "GREETING", "value": "workspace"}],
        "runtime": {
            "envVars": [{"key": "FROM_WORKSPACE", "value": "yes"}],
            "tasks": [task("workspace", "POST_START", "echo 'workspace ${{ vars.MISSING }}!' >> /workspace/tasks")],
        },
    });
    let request = CreateRequest {
        name: "merged".into(),
        template: "merge".into(),
        spec_json: spec.to_string(),
        ..Default::default()
    };
    let w = Workspace::create_with(&f.clients, request).await?;
    let mut watch = w.watch().await?;
    w.request_start(&[("GREETING", "run")]).await?;
    watch.running(START).await?;
    ensure_eq!(w.ok("echo $FROM_TEMPLATE $FROM_WORKSPACE $TOKEN $GREETING").await?, "yes yes t0ken run here");
    ensure_eq!(w.ok("cat /workspace/tasks").await?, "template run\nworkspace !");
    let run = w.status().await?.run.context("there is no run")?;
    ensure_eq!(run.vars.get("GREETING").map(String::as_str), Some("run"));
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("echo $GREETING").await?, "workspace here");
    w.delete().await
}

async fn limits_are_merged_by_dimension(f: Arc<Fixture>) -> Result<()> {
    let template = f.small(json!({"limit": {"cpu": {"millicores": 700}, "memory": {"megabytes": 300}}}));
    put_template(&f.clients, "limits", &template).await?;
    let request = CreateRequest {
        name: "lim".into(),
        template: "limits".into(),
        spec_json: json!({"limit": {"memory": {"megabytes": 400}}}).to_string(),
        ..Default::default()
    };
    let w = Workspace::create_with(&f.clients, request).await?;
    w.start().await?;
    let limit = w.status().await?.limit.context("there is no limit")?;
    ensure_eq!((limit.cpu_millicores, limit.memory_mib), (700, 400));
    w.delete().await
}
