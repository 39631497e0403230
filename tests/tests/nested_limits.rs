//! Limits of containers within a workspace, on machines whose cgroup controllers a workspace can pass on (pure v2).

use std::{process::ExitCode, sync::Arc};

use cordium_tests::{Fixture, Result, Suite, Workspace, containers, ensure, ensure_eq, json, skip};

/// One workspace for all cases: in the virtual machine everything takes its time.
struct Limited {
    f: Arc<Fixture>,
    w: Workspace,
    /// Why nothing can be tried.
    unsupported: Option<String>,
}

impl cordium_tests::suite::TearDown for Limited {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        Arc::clone(&self.f).tear_down().await
    }
}

impl Limited {
    fn workspace(&self) -> Result<&Workspace> {
        match &self.unsupported {
            Some(reason) => skip(reason.clone()),
            None => Ok(&self.w),
        }
    }
}

fn main() -> ExitCode {
    Suite::new("nested_limits")
        .case("a_nested_containers_memory_is_limited", memory)
        .case("a_nested_containers_processes_are_limited", processes)
        .case("nested_limits_stay_below_the_workspaces", bounded)
        .one_at_a_time()
        .run(set_up)
}

/// A workspace with podman and a small image.
async fn set_up() -> Result<Limited> {
    let f = Arc::new(Fixture::start("nested_limits").await?);
    let w = f.run("limited", &f.base(json!({"limit": {"memory": {"megabytes": 384}}}))).await?;
    let unsupported = containers::without_controllers(&w.root_ok(containers::CONTROLLERS).await?);
    if unsupported.is_none() {
        w.root_ok(&containers::podman_import(containers::OWN_FILES)).await?;
    }
    Ok(Limited { f, w, unsupported })
}

const RUN: &str = "podman run --rm --network none";

async fn memory(l: Arc<Limited>) -> Result<()> {
    let w = l.workspace()?;
    let max = w.root_ok(&format!("{RUN} --memory 64m tiny cat /sys/fs/cgroup/memory.max")).await?;
    ensure_eq!(max, (64 << 20).to_string());
    let bomb = w
        .root(&format!("{RUN} --memory 32m --memory-swap 32m tiny sh -c 'head -c 96m /dev/zero | tail'"))
        .await?;
    ensure!(bomb.code() != 0, "96 MiB fit into 32 MiB: {}", bomb.err());
    ensure_eq!(w.ok("echo alive").await?, "alive");
    Ok(())
}

async fn processes(l: Arc<Limited>) -> Result<()> {
    let w = l.workspace()?;
    let max = w.root_ok(&format!("{RUN} --pids-limit 20 tiny cat /sys/fs/cgroup/pids.max")).await?;
    ensure_eq!(max, "20");
    let many = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo all";
    let bomb = w.root(&format!("{RUN} --pids-limit 20 tiny sh -c '{many}'")).await?;
    ensure!(!bomb.out().contains("all"), "40 processes fit into 20");
    Ok(())
}

/// What is above them stays out of reach.
async fn bounded(l: Arc<Limited>) -> Result<()> {
    let w = l.workspace()?;
    for (file, value) in [("memory.max", "max"), ("pids.max", "max"), ("cpu.max", "max")] {
        let written = w.root(&format!("echo {value} > /sys/fs/cgroup/{file}")).await?;
        ensure!(written.code() != 0, "the workspace's {file} could be written");
    }
    Ok(())
}
