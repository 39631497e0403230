//! Looks at a workspace and its neighbour from outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cordium_tests::node::Node;
use cordium_tests::v1::{Usage, WorkspaceState as State, WorkspaceStatus};
use cordium_tests::workspace::Output;
use cordium_tests::{Context, Fixture, Result, Workspace, ensure, ensure_eq, json, process};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// For what the node finds out by itself: that storage is used up, that somebody was killed.
pub const NOTICE: Duration = Duration::from_secs(120);

/// Runs commands in a workspace all along, and keeps count.
pub struct Neighbour {
    workspace: Workspace,
    answers: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    work: JoinHandle<Result<()>>,
}

impl Neighbour {
    pub async fn beside(f: &Fixture, name: &str) -> Result<Self> {
        let workspace = f.run(name, &f.small(json!({"limit": {"memory": {"megabytes": 64}}}))).await?;
        Ok(Self::watch(workspace))
    }

    pub fn watch(workspace: Workspace) -> Self {
        let (answers, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let work = {
            let (workspace, answers, ends) = (workspace.clone(), Arc::clone(&answers), Arc::clone(&ends));
            tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    ensure_eq!(workspace.ok("echo here").await?, "here");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Self { workspace, answers, ends, work }
    }

    /// Waits for another answer, of a command that was asked after this call.
    pub async fn answers_now(&self) -> Result<()> {
        let wanted = self.answers.load(Ordering::Relaxed) + 2;
        let end = Instant::now() + NOTICE;
        while self.answers.load(Ordering::Relaxed) < wanted {
            ensure!(!self.work.is_finished(), "the neighbour failed");
            ensure!(Instant::now() < end, "the neighbour does not answer");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Every one of its commands was answered, and its run has seen nothing.
    pub async fn end(self) -> Result<()> {
        self.answers_now().await?;
        self.ends.store(true, Ordering::Relaxed);
        self.work.await?.context("a command of the neighbour's")?;
        let status = self.workspace.status().await?;
        ensure_eq!(status.state(), State::Running);
        ensure_eq!(status.usage.context("the neighbour has no usage")?.oom_kills, 0);
        self.workspace.delete().await
    }
}

/// Asks for the status until it is as wanted. There is no event for what is used.
pub async fn status_with(
    w: &Workspace,
    what: &str,
    wanted: impl Fn(&WorkspaceStatus) -> bool,
) -> Result<WorkspaceStatus> {
    let end = Instant::now() + NOTICE;
    loop {
        let status = w.status().await?;
        if wanted(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "{}: {what}: {status:#?}", w.name);
        sleep(Duration::from_millis(50)).await;
    }
}

pub fn usage(status: &WorkspaceStatus) -> Usage {
    status.usage.clone().unwrap_or_default()
}

pub fn has_warning(status: &WorkspaceStatus, text: &str) -> bool {
    status.warnings.iter().any(|warning| warning.contains(text))
}

/// The sandbox is gone from the node: its processes' directory, and its storage after a deletion.
pub fn nothing_left(node: &Node, w: &Workspace) -> Result<()> {
    let storage = node.state().join("workspaces").join(&w.uid);
    ensure!(!storage.exists(), "{} is left", storage.display());
    let run = node.run().join("ws").join(&w.uid);
    ensure!(!run.exists(), "{} is left", run.display());
    process::until("end of the sandbox's processes", Duration::from_secs(10), || {
        Ok(process::mentioning(&run).is_empty().then_some(()))
    })
}

/// Begins a command whose end is of no interest.
pub fn begin(w: &Workspace, script: &str) -> JoinHandle<Result<Output>> {
    let (w, script) = (w.clone(), script.to_owned());
    tokio::spawn(async move { w.sh(&script).await })
}
