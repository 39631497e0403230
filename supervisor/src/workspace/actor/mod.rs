//! The owner of one workspace: the only place where its state changes.

mod egress;
mod start;
mod stop;
mod tell;

use std::{sync::Arc, time::SystemTime};

use cordium_broker::Renewal;
use cordium_proto::v1::{
    AgentEvent, Failure, Limit, PhaseEvent, StoppingReason, WorkspaceState, agent_event, failure::Type,
};
use cordium_runtime::Reported;
use tokio::{
    sync::{mpsc, watch},
    time::{Duration, Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    EVENTS, Event, Events, HaltEnd, Halted, Reply, Report, Request, StartupEnd, View, adoption, follow, halt,
    startup,
};
use crate::{
    agent_link::AgentLink,
    context::Context,
    failure::{failure, from_agent},
    logs::{Line, Log},
    plan::RunPlan,
    request_error::RequestError,
    runtime::{Ended, SandboxHandle},
    store::{Change, Commit, Committed, Record},
    usage::{OOM_WARNING, explain_failure, oom_warning},
};

/// How many warnings a run may collect.
const WARNINGS: usize = 64;
/// Words on progress are told at most this often.
const DETAIL_INTERVAL: Duration = Duration::from_millis(200);

/// How far a run has come, as far as its helpers are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `startup` or `adoption` is at work.
    Starting,
    /// `startup` has ended: the agent is preparing, or the workspace runs, or the start has just failed.
    Up,
    /// A stop was decided while `startup` was at work; it has been told to end.
    Cancelling,
    /// `halt` is at work.
    Halting,
}

/// One run.
struct Run {
    stage: Stage,
    ephemeral: bool,
    /// Ends `startup`, and the watch on the agent.
    cancel: CancellationToken,
    /// Ends the graceful part of `halt`.
    force: CancellationToken,
    /// PRE_STOP tasks are to be run at the stop.
    graceful: bool,
    sandbox: Option<Arc<dyn SandboxHandle>>,
    agent: Option<AgentLink>,
    pump: Option<follow::Pump>,
    lease: Option<Arc<crate::images::RunImage>>,
    /// The sandbox is, or may be, under another egress policy than the record's.
    stale_policy: bool,
    /// Credentials that came after its start, if any did.
    renewal: Option<Arc<Renewal>>,
    deadline: Option<Instant>,
    last_detail: Instant,
}

/// See the module above.
pub struct Actor {
    context: Arc<Context>,
    record: Record,
    inbox: mpsc::Receiver<Request>,
    view: watch::Sender<View>,
    log: Arc<Log>,
    /// Numbers the runs of this process, so that a late report of an earlier one is not taken for the present one's.
    runs: u64,
    run: Option<Run>,
    events: (Events, mpsc::Receiver<(u64, Event)>),
    deletions: Vec<Reply<()>>,
    deleted: bool,
    /// Numbers the egress policies that sandboxes are given; the newest that one has taken is behind the lock.
    policies: (u64, Arc<tokio::sync::Mutex<u64>>),
}

impl Actor {
    pub fn new(
        context: Arc<Context>,
        record: Record,
        inbox: mpsc::Receiver<Request>,
        view: watch::Sender<View>,
        log: Arc<Log>,
    ) -> Self {
        Self {
            context,
            record,
            inbox,
            view,
            log,
            runs: 0,
            run: None,
            events: mpsc::channel(EVENTS),
            deletions: Vec::new(),
            deleted: false,
            policies: Default::default(),
        }
    }

    pub async fn run(mut self) {
        if self.record.state() != WorkspaceState::Stopped {
            self.take_over();
        }
        let shutdown = self.context.shutdown.clone();
        while !self.deleted {
            let deadline = self.run.as_ref().and_then(|run| run.deadline);
            // Fair to all: an agent that talks without end must not keep a stop from being heard.
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some((run, event)) = self.events.1.recv() => {
                    if run == self.runs && self.run.is_some() {
                        self.on_event(event).await;
                    }
                }
                request = self.inbox.recv() => match request {
                    Some(request) => self.on_request(request).await,
                    None => break,
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.on_deadline(),
            }
        }
        // At shutdown a running sandbox stays: the next supervisor takes it over.
        if let Some(run) = &self.run {
            run.cancel.cancel();
        }
        self.log.set_running(false);
    }

    async fn on_request(&mut self, request: Request) {
        match request {
            Request::Start { plan, spec_json, reply } => {
                let answer = self.start(*plan, spec_json).await;
                // Whoever asked may have gone; the run goes on all the same.
                let _ = reply.send(answer);
            }
            Request::Stop { reason, force, reply } => self.stop(reason, force, reply),
            Request::SetEgress { run_id, egress, secrets, reply } => {
                self.set_egress(&run_id, *egress, &secrets, reply).await;
            }
            Request::Delete { reply } => {
                self.deletions.push(reply);
                match self.run.as_ref().map(|run| run.stage) {
                    None => self.delete().await,
                    Some(Stage::Starting | Stage::Up) => {
                        drop(self.begin_stop(StoppingReason::Api, None, true));
                    }
                    Some(Stage::Cancelling | Stage::Halting) => self.force(),
                }
            }
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Phase { state, detail, warnings } => self.on_phase(state, detail, warnings),
            Event::Detail(detail) => self.tell_detail(detail),
            Event::Image { reference, digest } => {
                self.record.image_ref = reference;
                self.record.image_digest = digest;
            }
            Event::StartupEnded(end) => self.on_startup_ended(end),
            Event::Agent(event) => self.on_agent(event).await,
            Event::AgentLost(message) => {
                self.fail(failure(Type::HealthCheck, message));
            }
            Event::SandboxEnded(ended) => self.on_sandbox_ended(ended),
            Event::Reported(reported) => self.on_reported(reported).await,
            Event::HaltEnded(end) => self.on_halt_ended(end).await,
        }
    }

    async fn on_agent(&mut self, event: AgentEvent) {
        if self.run.as_ref().is_none_or(|run| run.stage != Stage::Up) {
            return;
        }
        match event.event {
            Some(agent_event::Event::Preparing(_)) | None => {}
            Some(agent_event::Event::Created(_)) => self.got_through_creation(),
            Some(agent_event::Event::Running(running)) => {
                self.got_through_creation();
                if self.record.state() == WorkspaceState::Preparing {
                    if let Some(run) = self.run.as_mut() {
                        run.deadline = None;
                        run.graceful = true;
                    }
                    drop(self.tell(WorkspaceState::Running, format!("user {}", running.user)));
                }
            }
            Some(agent_event::Event::Failure(failure)) => {
                let mut failure = from_agent(failure);
                if let Some(sandbox) = self.run.as_ref().and_then(|run| run.sandbox.clone()) {
                    explain_failure(&mut failure, sandbox.as_ref()).await;
                }
                self.fail(failure);
            }
            Some(agent_event::Event::Finished(_)) => {
                drop(self.begin_stop(StoppingReason::Cluster, None, false));
            }
            Some(agent_event::Event::Warning(warning)) => {
                self.note(&format!("warning: {warning}")).await;
                self.warn(warning);
            }
            Some(agent_event::Event::Step(step)) => self.tell_detail(step),
        }
    }

    fn got_through_creation(&mut self) {
        let ephemeral = self.run.as_ref().is_some_and(|run| run.ephemeral);
        if self.record.fresh && !ephemeral {
            self.record.fresh = false;
            if self.record.state() == WorkspaceState::Preparing {
                // Recorded at once: a failure after this must not run ON_CREATE again.
                let detail = self.record.latest.detail.clone();
                drop(self.tell(WorkspaceState::Preparing, detail));
            }
        }
    }

    fn on_sandbox_ended(&mut self, ended: Ended) {
        self.fail(match (ended.storage, ended.out_of_memory) {
            (Some(why), _) => {
                let message =
                    format!("the workspace was ended to stop its writes: {why}. Its files are kept");
                failure(Type::StorageExceeded, message)
            }
            (None, true) => {
                failure(Type::OutOfMemory, format!("the sandbox ran out of memory: {}", ended.message))
            }
            (None, false) => {
                failure(Type::HealthCheck, format!("the sandbox ended unexpectedly: {}", ended.message))
            }
        });
    }

    fn on_deadline(&mut self) {
        let state = self.record.state().short_name();
        let detail = &self.record.latest.detail;
        let message = format!("the start took too long: it was given up in {state} ({detail})");
        if let Some(run) = self.run.as_mut() {
            run.deadline = None;
        }
        self.fail(failure(Type::StartupTimeoutExceeded, message));
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::first_line;

    #[test]
    fn what_an_agent_says_is_one_short_line() {
        assert_eq!(first_line(&"x".repeat(8 << 20)).len(), 300);
        assert_eq!(first_line("one\ntwo"), "one");
    }
}
