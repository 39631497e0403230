//! Storage: what survives a stop, and what does not.

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{Context, Fixture, Result, Suite, ensure, ensure_eq, json, spec::task};

fn main() -> ExitCode {
    Suite::new("storage")
        .case("root_home_and_workspace_survive", root_home_and_workspace_survive)
        .case("ephemeral_begins_anew", ephemeral_begins_anew)
        .case("a_directory_that_a_crash_left_to_the_node_is_given_away", left_to_the_node)
        .case("storage_limit_is_reported", storage_limit_is_reported)
        .case("spec_changes_take_effect_at_the_next_start", spec_changes)
        .run(|| Fixture::start("storage"))
}

async fn root_home_and_workspace_survive(f: Arc<Fixture>) -> Result<()> {
    let create = task("create", "ON_CREATE", "echo x >> /workspace/created");
    let w = f.run("keep", &f.base(json!({"runtime": {"tasks": [create]}}))).await?;
    w.ok("echo w > /workspace/f; echo h > ~/f").await?;
    w.root_ok("echo r > /opt/f; chmod 600 /opt/f; rm -rf /usr/share/perl5; mkdir /usr/share/perl5; touch /usr/share/perl5/new; rm /etc/motd; touch /var/lib/containers/c").await?;
    for run in 2..=3 {
        w.stop().await?;
        w.start().await?;
        ensure_eq!(w.ok("cat /workspace/f ~/f | tr -d '\\n'").await?, "wh");
        ensure_eq!(w.root_ok("stat -c %u:%a /opt/f; cat /opt/f; ls -A /usr/share/perl5; ls /etc/motd 2>/dev/null | wc -l; ls /var/lib/containers/c").await?,
            "0:600\nr\nnew\n0\n/var/lib/containers/c");
        ensure_eq!(w.ok("wc -l < /workspace/created").await?, "1");
        let status = w.status().await?;
        ensure_eq!(status.successful_runs, run);
        let mut ids: Vec<&str> = status.last_runs.iter().map(|run| run.id.as_str()).collect();
        ensure!(status.last_runs.iter().all(|run| run.stopped_at.is_some()), "a run has no end");
        ids.sort_unstable();
        ids.dedup();
        ensure_eq!(ids.len(), run as usize - 1);
    }
    w.delete().await
}

async fn ephemeral_begins_anew(f: Arc<Fixture>) -> Result<()> {
    let create = task("create", "ON_CREATE", "echo x >> /workspace/created");
    let w = f.run("ephem", &f.base(json!({"isEphemeral": true, "runtime": {"tasks": [create]}}))).await?;
    w.root_ok("touch /opt/f").await?;
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("wc -l < /workspace/created; ls /opt | wc -l").await?, "1\n0");
    w.delete().await
}

async fn left_to_the_node(f: Arc<Fixture>) -> Result<()> {
    let w = f.create("crashed", &f.small(json!({}))).await?;
    // As after a crash of the first start, between making these directories and giving them to the sandbox's root.
    let volume = f.storage_of(&w).join("volume");
    for dir in ["upper", "workspace"] {
        f.node.user.make_dir(&volume.join(dir))?;
    }
    for dir in [f.storage_of(&w), volume] {
        f.node.user.own(&dir)?;
    }
    w.start().await?;
    w.ok("touch /workspace/x").await?;
    ensure_eq!(w.root_ok("touch /opt.x /etc/x && stat -c %u / /workspace").await?.lines().next(), Some("0"));
    w.delete().await
}

async fn storage_limit_is_reported(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("limit", &f.small(json!({"limit": {"storage": {"megabytes": 3000}}}))).await?;
    let status = w.status().await?;
    ensure_eq!(status.limit.context("there is no limit")?.storage_mib, 3000);
    // A plain directory has no quota: that must be said, unless the node enforces one.
    ensure!(status.warnings.iter().any(|warning| warning.contains("storage")), "{:?}", status.warnings);
    w.delete().await
}

async fn spec_changes(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("change", &f.small(json!({"runtime": {"envVars": [{"key": "A", "value": "1"}]}}))).await?;
    let spec = f.small(json!({"runtime": {"envVars": [{"key": "A", "value": "2"}]}}));
    let mut request = cordium_tests::v1::UpdateRequest {
        r#ref: w.uid.clone(),
        spec_json: Some(spec.to_string()),
        ..Default::default()
    };
    request.set_kind(cordium_tests::v1::Kind::Workspace);
    w.clients.control.clone().update(request).await?;
    ensure_eq!(w.ok("echo $A").await?, "1");
    w.stop().await?;
    w.start().await?;
    ensure_eq!(w.ok("echo $A").await?, "2");
    w.delete().await
}
