//! Ends a run: the agent first, then everything by force, then what is left on disk.
//!
//! Each step has a bound, and a step that fails does not keep the next from being tried.

use std::{path::Path, sync::Arc, time::Duration};

use cordium_proto::v1::{Failure, ShutdownRequest, failure::Type};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Event, HaltEnd, Report, follow::Pump};
use crate::{
    agent_link::AgentLink,
    context::Context,
    failure::failure,
    runtime::{RuntimeFailure, SandboxHandle},
};

/// What the agent's answer may take beyond the budgets that it was given.
const MARGIN: Duration = Duration::from_secs(10);

pub struct Halt {
    pub context: Arc<Context>,
    pub uid: String,
    pub sandbox: Option<Arc<dyn SandboxHandle>>,
    pub agent: Option<AgentLink>,
    pub pump: Option<Pump>,
    /// Run PRE_STOP tasks.
    pub graceful: bool,
    /// Cancelled to end the graceful part.
    pub force: CancellationToken,
    pub remove_storage: bool,
    pub report: Report,
}

impl Halt {
    /// Whatever happens, the owner hears of an end: without one the workspace would stay in STOPPING.
    pub async fn run(self) {
        let report = self.report.clone();
        let end = tokio::spawn(self.steps()).await.unwrap_or_else(|_| {
            let failure = failure(Type::Unknown, "ending the sandbox: its task has panicked");
            HaltEnd { failure: Some(failure), warnings: Vec::new(), storage_removed: false }
        });
        // Without an owner the supervisor is ending; the next one goes on from the record.
        let _ = report.send(Event::HaltEnded(end)).await;
    }

    async fn steps(mut self) -> HaltEnd {
        let mut end = HaltEnd { failure: None, warnings: Vec::new(), storage_removed: false };
        if let Some(agent) = self.agent.take() {
            end.warnings = self.shut_down(&agent).await;
        }
        if let Some(pump) = self.pump.take() {
            pump.finish(self.context.timeouts.drain).await;
        }
        if let Some(sandbox) = self.sandbox.take() {
            end.failure = self.kill(sandbox.as_ref()).await;
        }
        // What cannot be ended may still use its files.
        if end.failure.is_none() {
            self.clean_up(&mut end).await;
        }
        end
    }

    async fn shut_down(&self, link: &AgentLink) -> Vec<String> {
        let timeouts = &self.context.timeouts;
        let graceful = self.graceful && !self.force.is_cancelled();
        let pre_stop = if graceful { timeouts.pre_stop } else { Duration::ZERO };
        let request = ShutdownRequest {
            pre_stop_timeout_ms: pre_stop.as_millis() as u64,
            skip_tasks: !graceful,
            grace_ms: timeouts.grace.as_millis() as u64,
        };
        let mut agent = link.agent();
        let ask = timeout(pre_stop + timeouts.grace + MARGIN, agent.shutdown(request));
        let forced = async {
            self.force.cancelled().await;
            // When there are no tasks to skip, force means only that nobody is waited for long.
            tokio::time::sleep(if graceful { Duration::ZERO } else { Duration::from_millis(500) }).await;
        };
        tokio::select! {
            answer = ask => match answer {
                Ok(Ok(answer)) => answer.into_inner().warnings,
                Ok(Err(status)) => vec![format!("the agent could not end its processes: {}", status.message())],
                Err(_) => vec!["the agent did not end its processes in time".to_owned()],
            },
            () = forced => Vec::new(),
        }
    }

    async fn kill(&self, sandbox: &dyn SandboxHandle) -> Option<Failure> {
        let limit = self.context.timeouts.kill;
        let mut problem = String::new();
        for _ in 0..2 {
            match timeout(limit + Duration::from_secs(1), sandbox.kill(limit)).await {
                Ok(Ok(())) => return None,
                Ok(Err(error)) => problem = error.to_string(),
                Err(_) => problem = format!("it took more than {limit:?}"),
            }
            tracing::warn!(workspace = self.uid, problem, "ending the sandbox");
        }
        Some(failure(Type::StoppageTimeoutExceeded, format!("ending the sandbox: {problem}")))
    }

    async fn clean_up(&self, end: &mut HaltEnd) {
        if let Err(error) = self.remove(&self.context.dirs.sandbox(&self.uid)).await {
            end.warnings.push(format!("removing what the run left: {error}"));
        }
        if self.remove_storage {
            match self.remove(&self.context.dirs.volume(&self.uid)).await {
                Ok(()) => end.storage_removed = true,
                Err(error) => end.warnings.push(format!("removing the ephemeral storage: {error}")),
            }
        }
    }

    async fn remove(&self, path: &Path) -> Result<(), RuntimeFailure> {
        let limit = self.context.timeouts.storage;
        timeout(limit, self.context.runtime.remove_tree(path))
            .await
            .unwrap_or_else(|_| Err(RuntimeFailure(format!("it took more than {limit:?}"))))
    }
}
