//! What limits look like inside and in the status.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cordium_tests::v1::{CreateRequest, Kind, WorkspaceStatus};
use cordium_tests::{Context, Fixture, Result, Workspace, bail, ensure, ensure_eq, json, process};
use serde_json::Value;

use crate::observe::{has_warning, status_with, usage};

pub async fn in_force_inside(f: Arc<Fixture>) -> Result<()> {
    let limit = json!({
        "memory": {"megabytes": 100}, "swap": {"megabytes": 7}, "storage": {"megabytes": 100}, "inodes": 5000,
        "pids": 100, "openFiles": 300, "userNamespaces": 2, "inotify": {"instances": 3, "watches": 40},
        "io": {"weight": 50}, "cpu": {"millicores": 900},
    });
    let w = f.run("inforce", &f.base(json!({"limit": limit}))).await?;
    let status = w.status().await?;
    let told = status.limit.context("there is no limit")?;
    ensure_eq!((told.memory_mib, told.swap_mib, told.storage_mib, told.inodes), (100, 7, 100, 5000));
    ensure_eq!((told.pids, told.open_files, told.user_namespaces, told.io_weight), (100, 300, 2, 50));
    ensure_eq!((told.inotify_instances, told.inotify_watches, told.cpu_millicores), (3, 40, 900));
    ensure_eq!(w.ok("ulimit -n; ulimit -Hn").await?, "300\n300");
    ensure!(w.root("ulimit -n 301").await?.code() != 0, "root may raise its limit");
    // The sandbox's own is not among the two.
    w.root_ok("unshare -r unshare -r true").await?;
    ensure!(w.root("unshare -r unshare -r unshare -r true").await?.code() != 0, "a third user namespace");
    let cap = "import ctypes,sys
libc = ctypes.CDLL(None, use_errno=True)
n = 0
while libc.inotify_init() >= 0: n += 1
print(n, ctypes.get_errno())";
    let python = w.sh("command -v python3").await?;
    if python.code() == 0 {
        ensure_eq!(w.exec(&["python3", "-c", cap]).await?.out(), "3 24");
    }
    // A weight works only where the disk's scheduler knows weights; else that is said.
    let weighs = !has_warning(&status, "io weight limit is not enforced");
    let schedulers = process::run(Command::new("sh").args(["-c", "cat /sys/block/*/queue/scheduler"]))?;
    ensure!(!weighs || schedulers.contains("[bfq]") || unified_only(), "{:?}", status.warnings);
    w.delete().await
}

fn unified_only() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

pub async fn use_is_in_the_status(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("used", &f.small(json!({}))).await?;
    w.ok("dd if=/dev/zero of=/workspace/f bs=1M count=4; sync").await?;
    let seen = |status: &WorkspaceStatus| usage(status).storage_bytes >= 4 << 20;
    let used = usage(&status_with(&w, "4 MiB of storage", seen).await?);
    ensure!(used.memory_bytes > 0 && used.memory_peak_bytes >= used.memory_bytes, "{used:?}");
    ensure!(used.pids > 0 && used.cpu_usec > 0 && used.inodes > 0 && used.at.is_some(), "{used:?}");
    // The kernel accounts for pressure by cgroup, or not at all.
    let accounts = process::run(Command::new("sh").args([
        "-c",
        "find /sys/fs/cgroup -maxdepth 3 -name cpu.pressure -exec cat {} + 2>/dev/null | grep -c avg10 || true",
    ]))?;
    ensure_eq!(used.cpu_pressure.is_some(), accounts.trim() != "0");
    ensure_eq!(used.memory_pressure.is_some(), used.io_pressure.is_some());

    let cli = f.cli();
    let shown: Value = serde_json::from_str(&cli.ok(&["get", "workspace", "used", "-o", "json"]).await?)?;
    let shown = &shown["status"]["usage"];
    ensure!(shown["memory"]["bytes"].as_u64() > Some(0), "{shown}");
    ensure!(shown["storage"]["bytes"].as_u64() >= Some(4 << 20), "{shown}");
    let status: Value = serde_json::from_str(&cli.ok(&["status", "-o", "json"]).await?)?;
    let found = status["workspaces"].as_array().and_then(|all| all.iter().find(|w| w["name"] == "used"));
    ensure!(found.is_some_and(|w| w["usage"]["pids"]["count"].as_u64() > Some(0)), "{status}");
    let table = cli.ok(&["status"]).await?;
    ensure!(table.contains("PRESSURE CPU/MEM/IO") && table.contains("used"), "{table}");
    let wide = cli.ok(&["get", "workspaces", "-o", "wide"]).await?;
    ensure!(wide.contains(" of 512.0 MiB"), "{wide}");
    w.stop().await?;
    ensure!(w.status().await?.usage.is_none(), "a stopped workspace uses nothing");
    w.delete().await
}

pub async fn one_clear_error(f: Arc<Fixture>) -> Result<()> {
    let refused = |name: &'static str, space: &'static str, limit: Value| {
        let request = CreateRequest {
            name: name.into(),
            space: space.into(),
            spec_json: f.small(json!({"limit": limit})).to_string(),
            ..Default::default()
        };
        let clients = f.clients.clone();
        async move {
            match Workspace::create_with(&clients, request).await {
                Ok(_) => bail!("{name} was created"),
                Err(error) => Ok(format!("{error:#}")),
            }
        }
    };
    const HUGE: u64 = 1 << 63;
    for (limit, expected) in [
        (json!({"pids": 0}), "spec.limit.pids: was 0; allowed: 16 to"),
        (json!({"pids": HUGE}), "spec.limit.pids: was 9223372036854775808"),
        (json!({"memory": {"megabytes": 0}}), "spec.limit.memory.megabytes: was 0"),
        (json!({"memory": {"megabytes": HUGE}}), "spec.limit.memory.megabytes: was 9223372036854775808"),
        (json!({"cpu": {"millicores": HUGE}}), "spec.limit.cpu.millicores: was 9223372036854775808"),
        (json!({"storage": {"megabytes": HUGE}}), "spec.limit.storage.megabytes: was"),
        (json!({"swap": {"megabytes": HUGE}}), "spec.limit.swap.megabytes: was"),
        (json!({"inodes": 0}), "spec.limit.inodes: was 0; allowed: 1024 to"),
        (json!({"io": {"weight": 0}}), "spec.limit.io.weight: was 0; allowed: 1 to 10000"),
        (json!({"openFiles": HUGE}), "spec.limit.openFiles: was"),
        (json!({"inotify": {"watches": 0}}), "spec.limit.inotify.watches: was 0"),
        (json!({"userNamespaces": 0}), "spec.limit.userNamespaces: was 0"),
        (json!({"gpu": 1}), "spec.limit.gpu"),
    ] {
        let error = refused("wrong", "", limit).await?;
        ensure!(error.contains(expected), "{error} has no {expected}");
    }
    let max = json!({"limit": {"maxLimit": {"memory": {"megabytes": 128}, "pids": 100}}});
    let mut space = CreateRequest { name: "tight".into(), spec_json: max.to_string(), ..Default::default() };
    space.set_kind(Kind::Space);
    f.clients.control.clone().create(space).await?;
    let error =
        refused("greedy", "tight", json!({"memory": {"megabytes": 256}, "pids": 101, "openFiles": 999}))
            .await?;
    let expected = "spec.limit: asks for more than the Space allows: memory.megabytes was 256, allowed: at most 128; \
                    pids was 101, allowed: at most 100";
    ensure!(error.contains(expected), "{error}");
    // What nobody asked for is made to fit.
    let request = CreateRequest {
        name: "modest".into(),
        space: "tight".into(),
        spec_json: f.small(json!({"limit": {"memory": {"megabytes": 128}}})).to_string(),
        ..Default::default()
    };
    let modest = Workspace::create_with(&f.clients, request).await?;
    ensure_eq!(modest.status().await?.limit.map(|limit| (limit.memory_mib, limit.pids)), Some((128, 100)));
    modest.delete().await
}
