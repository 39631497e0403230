//! States, signals and limits of a container.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::Context as _;
use cordium_tests::{Result, ensure, ensure_eq, json};
use serde_json::Value;

use crate::ground::{Running, Shared, cgroups_of, failure, ok, text, wait_for};

pub async fn a_container_goes_through_its_states(s: Arc<Shared>) -> Result<()> {
    let bundle = s.bundle("states", |_| {})?;
    let pid_file = s.dir.join("states.pid");
    ok(s.oci(&["create", "-b", text(&bundle)?, "--pid-file", text(&pid_file)?, "states"]))?;
    let state = s.state("states")?;
    ensure_eq!(state["status"], "created");
    ensure_eq!(state["bundle"], text(&bundle)?);
    let pid = state["pid"].as_i64().context("no pid")?;
    ensure_eq!(fs::read_to_string(&pid_file)?.trim(), pid.to_string());
    ensure!(
        failure(s.oci(&["create", "-b", text(&bundle)?, "states"]))?.contains("exists already"),
        "made twice"
    );
    ok(s.oci(&["start", "states"]))?;
    wait_for("the program's start", || {
        Ok(fs::read_to_string(format!("/proc/{pid}/cmdline"))?.starts_with("sleep"))
    })
    .await?;
    ensure!(failure(s.oci(&["start", "states"]))?.contains("created"), "started twice");
    ensure!(failure(s.oci(&["delete", "states"]))?.contains("--force"), "deleted although it runs");
    ensure!(!cgroups_of("states").is_empty(), "it has no cgroup");
    ok(s.oci(&["kill", "states", "KILL"]))?;
    wait_for("its end", || Ok(s.state("states")?["status"] == "stopped")).await?;
    ensure!(failure(s.oci(&["kill", "states", "TERM"]))?.contains("stopped"), "killed although stopped");
    ok(s.oci(&["delete", "states"]))?;
    ensure!(failure(s.oci(&["state", "states"]))?.contains("does not exist"), "is still there");
    ensure_eq!(cgroups_of("states"), Vec::<PathBuf>::new());
    // Engines delete by force what may not be there.
    ok(s.oci(&["delete", "--force", "states"])).map(drop)
}

pub async fn pause_freezes_and_kill_thaws(s: Arc<Shared>) -> Result<()> {
    let c = s.running("pause", |_| {})?;
    ok(s.oci(&["pause", "pause"]))?;
    ensure_eq!(s.state("pause")?["status"], "paused");
    ensure!(failure(c.exec(&["true"]))?.contains("paused"), "exec in a paused container");
    ok(s.oci(&["resume", "pause"]))?;
    ensure_eq!(s.state("pause")?["status"], "running");
    ok(c.exec(&["true"]))?;
    ok(s.oci(&["pause", "pause"]))?;
    ok(s.oci(&["kill", "pause", "SIGKILL"]))?;
    wait_for("its end", || Ok(s.state("pause")?["status"] == "stopped")).await
}

/// Chains of processes of which each makes the next one and ends: whoever lists them and then kills misses some.
pub async fn kill_all_reaches_what_is_made_meanwhile(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("relay")?;
    let relay = rootfs.join("bin/relay");
    fs::write(&relay, "#!/bin/sh\n/bin/sleep 0.01\n/bin/relay &\n")?;
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755))?;
    let make = |name: &str| -> Result<Running<'_>> {
        let c = s.running(name, |spec| {
            spec["root"]["path"] = json!(rootfs);
            spec["process"]["args"] = json!([
                "sh",
                "-c",
                "for n in 1 2 3 4 5 6 7 8; do for m in 1 2 3 4 5; do relay & done; done; sleep 1000"
            ]);
            spec["linux"]["resources"] = json!({"pids": {"limit": 3000}});
            // Without a pid namespace the end of init is not the end of the others.
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "pid");
            }
        })?;
        Ok(c)
    };
    let members = |name: &str| -> usize {
        let procs = cgroups_of(name).into_iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")));
        procs.map(|text| text.map_or(0, |text| text.lines().count())).max().unwrap_or(0)
    };
    for signal in ["KILL", "TERM"] {
        let name = format!("relay-{}", signal.to_lowercase());
        let _c = make(&name)?;
        wait_for("the relay's start", || Ok(members(&name) > 5)).await?;
        ok(s.oci(&["kill", "--all", &name, signal]))?;
        wait_for("the end of all", || Ok(members(&name) == 0)).await?;
    }
    let c = make("relay-delete")?;
    wait_for("the relay's start", || Ok(members("relay-delete") > 5)).await?;
    // Init alone: the container is stopped, and the others go on.
    ok(s.oci(&["kill", "relay-delete", "KILL"]))?;
    wait_for("the end of init", || Ok(s.state("relay-delete")?["status"] == "stopped")).await?;
    ok(s.oci(&["delete", "relay-delete"]))?;
    ensure_eq!(cgroups_of("relay-delete"), Vec::<PathBuf>::new());
    drop(c);
    Ok(())
}

/// Numbers are given again: what has init's later is not to be signalled or entered.
pub async fn another_process_with_inits_number_is_not_it(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("number", |_| {})?;
    let mut stranger = Command::new("sleep").arg("1000").spawn()?;
    let outcome = (|| {
        let file = s.dir.join("state/number/state.json");
        let mut state: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        state["pid"] = json!(stranger.id());
        fs::write(&file, state.to_string())?;
        ensure_eq!(s.state("number")?["status"], "stopped");
        ensure!(failure(s.oci(&["kill", "number", "KILL"]))?.contains("stopped"), "it was signalled");
        ensure!(failure(s.oci(&["exec", "number", "true"]))?.contains("stopped"), "it was entered");
        ok(s.oci(&["delete", "number"]))?;
        ensure_eq!(stranger.try_wait()?, None);
        ensure_eq!(cgroups_of("number"), Vec::<PathBuf>::new());
        Ok(())
    })();
    stranger.kill()?;
    stranger.wait()?;
    outcome
}

pub async fn update_changes_limits(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("update", |_| {})?;
    ok(s.oci(&["update", "--pids-limit", "77", "--memory", "67108864", "update"]))?;
    let read = |file: &str| -> Vec<String> {
        let dirs = cgroups_of("update").into_iter();
        dirs.filter_map(|dir| fs::read_to_string(dir.join(file)).ok()).map(|t| t.trim().to_owned()).collect()
    };
    ensure_eq!(read("pids.max"), ["77"]);
    let memory = [read("memory.max"), read("memory.limit_in_bytes")].concat();
    ensure_eq!(memory, ["67108864"]);
    ensure!(failure(s.oci(&["update", "update"]))?.contains("nothing to update"), "nothing was an update");
    Ok(())
}
