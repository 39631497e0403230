//! The sandbox runtime as the state machine sees it: a trait, so that it can be tested without namespaces.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cordium_runtime::{
    IdMap, Reported, SandboxPlan,
    cgroup::{CgroupPlan, Stats},
};
use futures::future::BoxFuture;
use tokio::sync::watch;

/// A failed step of the runtime: words for people, the whole chain of causes.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RuntimeFailure(pub String);

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// In words.
    pub message: String,
    /// The kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// It was ended because of what its files take: why.
    pub storage: Option<String>,
}

/// A running sandbox.
pub trait SandboxHandle: Send + Sync + 'static {
    /// Where its agent answers.
    fn agent_socket(&self) -> PathBuf;
    /// What could not be enforced, in words.
    fn warnings(&self) -> Vec<String>;
    /// What its cgroups account for at this moment.
    fn stats(&self) -> Stats {
        Stats::default()
    }
    /// What its keeper has found out so far.
    fn reported(&self) -> watch::Receiver<Reported> {
        watch::channel(Reported::default()).1
    }
    /// Changes what it may reach; in force when this resolves.
    fn set_policy<'a>(
        &'a self,
        policy: &'a cordium_egress::Policy,
        renewal: Option<&'a cordium_broker::Renewal>,
    ) -> BoxFuture<'a, Result<(), RuntimeFailure>>;
    /// Resolves when it has ended.
    fn wait(&self) -> BoxFuture<'_, Ended>;
    /// Ends every process in it and the keeper, and undoes what the keeper made.
    fn kill(&self, timeout: Duration) -> BoxFuture<'_, Result<(), RuntimeFailure>>;
}

/// Makes sandboxes.
pub trait SandboxRuntime: Send + Sync + 'static {
    /// The cgroup that a workspace gets.
    fn cgroup(&self, uid: &str) -> Option<CgroupPlan>;
    /// Makes all that is in a directory, whichever range of the node's it belongs to, belong to this one. No tenant may see
    /// the directory itself. Done again after an interruption, it goes on.
    fn give_tree<'a>(&'a self, path: &'a Path, ids: &'a IdMap) -> BoxFuture<'a, Result<(), RuntimeFailure>>;
    /// What this node cannot enforce, in words.
    fn warnings(&self) -> Vec<String>;
    /// Removes a directory whose files may belong to subordinate ids. What is not there is fine.
    fn remove_tree<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), RuntimeFailure>>;
    /// Starts a sandbox; its agent is listening when this returns.
    fn start<'a>(
        &'a self,
        plan: &'a SandboxPlan,
    ) -> BoxFuture<'a, Result<Arc<dyn SandboxHandle>, RuntimeFailure>>;
    /// Takes over a sandbox that an earlier supervisor started. Nothing when there is none any more.
    fn adopt<'a>(
        &'a self,
        uid: &'a str,
        run_dir: &'a Path,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn SandboxHandle>>, RuntimeFailure>>;
    /// The supervisor ends: gives up what was made ahead. Sandboxes go on.
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// An error and its causes, in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Many errors already say their cause.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
