//! Takes over, after a restart of the supervisor, what an earlier one left running.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{WatchAgentRequest, WorkspaceState, agent_event, failure::Type};
use tokio::time::timeout;

use super::{Event, Halted, Report, StartupEnd};
use crate::{agent_link::AgentLink, context::Context, failure::failure, runtime::SandboxHandle};

/// How long the agent may take to say that it has been told to prepare. It repeats what it said at once.
const PREPARING: Duration = Duration::from_secs(5);

pub struct Adoption {
    pub context: Arc<Context>,
    pub uid: String,
    /// The state that the record tells of.
    pub state: WorkspaceState,
    /// The digest of the run's image.
    pub image: String,
    pub report: Report,
}

impl Adoption {
    /// Whatever happens, the owner hears of an end, as from a start-up.
    pub async fn run(self) {
        let report = self.report.clone();
        let end = tokio::spawn(self.steps()).await.unwrap_or_else(|_| {
            let failure = failure(Type::Unknown, "taking the sandbox over: its task has panicked");
            StartupEnd { result: Err(Halted::Failed(failure)), sandbox: None, lease: None }
        });
        // Without an owner the supervisor is ending.
        let _ = report.send(Event::StartupEnded(end)).await;
    }

    async fn steps(self) -> StartupEnd {
        let (result, sandbox) = self.sandbox().await;
        let mut lease = None;
        if result.is_ok() && !self.image.is_empty() {
            // What runs does not depend on it.
            match self.context.images.hold(&self.image) {
                Ok(image) => lease = Some(image),
                Err(error) => tracing::warn!(workspace = self.uid, %error, "holding the image's layers"),
            }
        }
        StartupEnd { result, sandbox, lease }
    }

    async fn sandbox(&self) -> (Result<AgentLink, Halted>, Option<Arc<dyn SandboxHandle>>) {
        let fail = |make: fn(_) -> Type, message: String| Err(Halted::Failed(failure(make, message)));
        let run_dir = self.context.dirs.sandbox(&self.uid);
        let state = self.state.short_name();
        let sandbox = match self.context.runtime.adopt(&self.uid, &run_dir).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                let message =
                    format!("the supervisor was restarted and cannot take the sandbox over: {error}");
                return (fail(Type::HealthCheck, message), None);
            }
        };
        let was_up = matches!(self.state, WorkspaceState::Preparing | WorkspaceState::Running);
        let Some(sandbox) = sandbox else {
            let ended = if was_up {
                fail(Type::HealthCheck, "the sandbox ended while the supervisor was away".to_owned())
            } else {
                fail(Type::StartupUnknown, format!("the supervisor was restarted in {state}"))
            };
            return (ended, None);
        };
        let link = AgentLink::new(&sandbox.agent_socket());
        if self.state == WorkspaceState::Preparing && !is_preparing(&link).await {
            let message = "the supervisor was restarted before the agent was told what to do".to_owned();
            return (fail(Type::StartupUnknown, message), Some(sandbox));
        }
        let stopping = matches!(self.state, WorkspaceState::StoppingRequest | WorkspaceState::Stopping);
        if !was_up && !stopping {
            return (
                fail(Type::StartupUnknown, format!("the supervisor was restarted in {state}")),
                Some(sandbox),
            );
        }
        (Ok(link), Some(sandbox))
    }
}

async fn is_preparing(link: &AgentLink) -> bool {
    let ask = async {
        let mut events = link.agent().watch_agent(WatchAgentRequest {}).await.ok()?.into_inner();
        while let Ok(Some(event)) = events.message().await {
            if matches!(event.event, Some(agent_event::Event::Preparing(_))) {
                return Some(());
            }
        }
        None
    };
    timeout(PREPARING, ask).await.ok().flatten().is_some()
}
