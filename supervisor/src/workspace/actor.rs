//! The owner of one workspace: the only place where its state changes.

use std::{sync::Arc, time::SystemTime};

use cordium_proto::v1::{
    AgentEvent, Failure, Limit, PhaseEvent, StoppingReason, WorkspaceState, agent_event, failure::Type,
};
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
        }
    }

    pub async fn run(mut self) {
        if self.record.state() != WorkspaceState::Stopped {
            self.take_over();
        }
        let shutdown = self.context.shutdown.clone();
        while !self.deleted {
            let deadline = self.run.as_ref().and_then(|run| run.deadline);
            tokio::select! {
                biased;
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
            Event::SandboxEnded(ended) => self.on_sandbox_ended(&ended),
            Event::HaltEnded(end) => self.on_halt_ended(end).await,
        }
    }

    // ---- starting

    async fn start(&mut self, plan: RunPlan, spec_json: String) -> Result<u64, RequestError> {
        if self.record.latest.run_id == plan.prepare.run_id {
            return Ok(self.record.run_revision);
        }
        if self.run.is_some() {
            let state = self.record.state().short_name();
            return Err(RequestError::wrong_state(
                format!("workspace {} cannot be started: it is {state}", plan.prepare.workspace_name),
                "stop it first, or wait until it is STOPPED",
            ));
        }
        let before = self.record.clone();
        let latest = &mut self.record.latest;
        latest.workspace_name = plan.prepare.workspace_name.clone();
        latest.run_id = plan.prepare.run_id.clone();
        latest.failure = None;
        latest.limit = None;
        latest.warnings = plan.warnings.clone();
        latest.set_stopping_reason(StoppingReason::Unset);
        self.record.space = plan.prepare.space.clone();
        self.record.spec_json = spec_json;
        self.record.image_digest = String::new();
        self.record.image_ref = plan.image.clone();
        if plan.ephemeral {
            self.record.fresh = true;
        }
        self.set_state(WorkspaceState::InitRequest, "accepted".to_owned());
        let begun = Change::BeginRun(Box::new(self.record.clone()));
        let committed = self.context.store.commit(Commit { change: begun, persist: false });
        match committed.await.unwrap_or(Err(crate::store::StoreError::Closed)) {
            Ok(event) => self.record.run_revision = event.revision,
            Err(error) => {
                self.record = before;
                return Err(error.into());
            }
        }
        self.record.latest.limit = Some(plan.limit);
        let timeouts = &self.context.timeouts;
        let budget = if self.record.fresh { timeouts.fresh_start } else { timeouts.start };
        let deadline = Instant::now() + budget;
        self.begin_run(plan.ephemeral, Some(deadline));
        self.log.set_running(true);
        let report = self.report();
        if let Some(run) = &self.run {
            let startup = startup::Startup {
                context: self.context.clone(),
                plan,
                fresh: self.record.fresh,
                cancel: run.cancel.clone(),
                report,
                log: self.log.clone(),
                deadline,
            };
            self.context.tasks.spawn(startup.run());
        }
        self.show();
        Ok(self.record.run_revision)
    }

    /// After a restart of the supervisor: finds out what is left of the run that the record tells of.
    fn take_over(&mut self) {
        let state = self.record.state();
        let starting = matches!(state, WorkspaceState::Preparing);
        let deadline = starting.then(|| Instant::now() + self.context.timeouts.start);
        let ephemeral = crate::plan::is_ephemeral(&self.record.spec_json);
        self.begin_run(ephemeral, deadline);
        self.log.set_running(true);
        let report = self.report();
        let Some(run) = self.run.as_mut() else { return };
        if matches!(state, WorkspaceState::StoppingRequest | WorkspaceState::Stopping) {
            run.stage = Stage::Cancelling;
        }
        run.graceful = state == WorkspaceState::Running;
        let adoption = adoption::Adoption {
            context: self.context.clone(),
            uid: self.record.uid().to_owned(),
            state,
            image: self.record.image_digest.clone(),
            report,
        };
        self.context.tasks.spawn(adoption.run());
    }

    fn begin_run(&mut self, ephemeral: bool, deadline: Option<Instant>) {
        self.runs += 1;
        self.run = Some(Run {
            stage: Stage::Starting,
            ephemeral,
            cancel: CancellationToken::new(),
            force: CancellationToken::new(),
            graceful: false,
            sandbox: None,
            agent: None,
            pump: None,
            lease: None,
            deadline,
            last_detail: Instant::now(),
        });
    }

    fn on_phase(&mut self, state: WorkspaceState, detail: String, warnings: Vec<String>) {
        if self.run.as_ref().is_none_or(|run| run.stage != Stage::Starting) {
            return;
        }
        // From here on something may lie on disk.
        self.record.latest.has_storage = true;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        drop(self.tell(state, detail));
    }

    fn on_startup_ended(&mut self, end: StartupEnd) {
        let report = self.report();
        let run_id = self.record.latest.run_id.clone();
        let (context, log) = (self.context.clone(), self.log.clone());
        let Some(run) = self.run.as_mut() else { return };
        run.sandbox = end.sandbox;
        run.lease = end.lease;
        match (run.stage, end.result) {
            (Stage::Starting, Ok(agent)) => {
                run.stage = Stage::Up;
                if let Some(sandbox) = run.sandbox.clone() {
                    context.tasks.spawn(follow::wait(sandbox, run.cancel.clone(), report.clone()));
                }
                let lost_after = context.timeouts.agent_lost;
                let watch = follow::watch(agent.clone(), run.cancel.clone(), report, lost_after);
                context.tasks.spawn(watch);
                run.pump = Some(follow::Pump::spawn(&context, agent.clone(), log, run_id));
                run.agent = Some(agent);
                self.show();
            }
            (Stage::Starting, Err(Halted::Failed(failure))) => {
                run.stage = Stage::Up;
                self.fail(failure);
            }
            // Only this owner cancels it, or the end of the supervisor.
            (Stage::Starting, Err(Halted::Cancelled)) => {}
            (Stage::Cancelling, result) => {
                if let Ok(agent) = result {
                    run.pump = Some(follow::Pump::spawn(&context, agent.clone(), log, run_id));
                    run.agent = Some(agent);
                }
                self.launch_halt();
            }
            (Stage::Up | Stage::Halting, _) => {}
        }
    }

    // ---- running

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
            Some(agent_event::Event::Failure(failure)) => self.fail(from_agent(failure)),
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

    fn on_sandbox_ended(&mut self, ended: &Ended) {
        let what = if ended.out_of_memory { "ran out of memory" } else { "ended unexpectedly" };
        self.fail(failure(Type::HealthCheck, format!("the sandbox {what}: {}", ended.message)));
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

    // ---- stopping

    fn stop(&mut self, reason: StoppingReason, force: bool, reply: Reply<u64>) {
        let reason = if reason == StoppingReason::Unset { StoppingReason::Api } else { reason };
        match self.run.as_ref().map(|run| run.stage) {
            None => {
                let message = format!("workspace {} is stopped already", self.record.latest.workspace_name);
                let _ = reply.send(Err(RequestError::wrong_state(message, "start it first")));
            }
            Some(Stage::Starting | Stage::Up) => {
                let committed = self.begin_stop(reason, None, force);
                self.context.tasks.spawn(answer(committed, reply));
            }
            Some(Stage::Cancelling | Stage::Halting) => {
                if force {
                    self.force();
                }
                let _ = reply.send(Ok(self.context.ring.newest()));
            }
        }
    }

    /// Something went wrong with the run: stops it, unless it is being stopped anyway.
    fn fail(&mut self, failure: Failure) {
        if self.run.as_ref().is_some_and(|run| matches!(run.stage, Stage::Starting | Stage::Up)) {
            tracing::warn!(workspace = self.record.uid(), message = failure.message, "the run failed");
            drop(self.begin_stop(StoppingReason::Error, Some(failure), false));
        }
    }

    fn begin_stop(
        &mut self,
        reason: StoppingReason,
        failure: Option<Failure>,
        force: bool,
    ) -> Option<Committed> {
        let run = self.run.as_mut()?;
        run.deadline = None;
        run.cancel.cancel();
        if force {
            run.force.cancel();
        }
        let wait = run.stage == Stage::Starting;
        run.stage = if wait { Stage::Cancelling } else { Stage::Halting };
        let detail = match &failure {
            Some(failure) => first_line(&failure.message),
            None => "stop was asked for".to_owned(),
        };
        self.record.latest.failure = failure;
        self.record.latest.set_stopping_reason(reason);
        let committed = self.tell(WorkspaceState::StoppingRequest, detail);
        if !wait {
            self.launch_halt();
        }
        Some(committed)
    }

    fn force(&self) {
        if let Some(run) = &self.run {
            run.force.cancel();
        }
    }

    fn launch_halt(&mut self) {
        let report = self.report();
        let Some(run) = self.run.as_mut() else { return };
        run.stage = Stage::Halting;
        let halt = halt::Halt {
            context: self.context.clone(),
            uid: self.record.uid().to_owned(),
            sandbox: run.sandbox.take(),
            agent: run.agent.clone(),
            pump: run.pump.take(),
            graceful: run.graceful && self.record.latest.failure.is_none(),
            force: run.force.clone(),
            remove_storage: run.ephemeral,
            report,
        };
        self.context.tasks.spawn(halt.run());
        drop(self.tell(WorkspaceState::Stopping, "ending processes".to_owned()));
    }

    async fn on_halt_ended(&mut self, end: HaltEnd) {
        end.warnings.into_iter().for_each(|warning| self.warn(warning));
        if self.record.latest.failure.is_none() {
            self.record.latest.failure = end.failure;
        }
        if end.storage_removed {
            self.record.latest.has_storage = false;
            self.record.fresh = true;
        }
        let detail = match &self.record.latest.failure {
            Some(failure) => first_line(&failure.message),
            None => String::new(),
        };
        self.run = None;
        drop(self.tell(WorkspaceState::Stopped, detail));
        self.log.set_running(false);
        if !self.deletions.is_empty() {
            self.delete().await;
        }
    }

    async fn delete(&mut self) {
        let result = self.remove().await;
        if result.is_ok() {
            self.deleted = true;
            self.inbox.close();
        }
        for reply in self.deletions.drain(..) {
            let _ = reply.send(result.clone());
        }
    }

    async fn remove(&mut self) -> Result<(), RequestError> {
        self.log.close();
        let uid = self.record.uid().to_owned();
        let internal = |error: String| RequestError::Internal(format!("deleting workspace {uid}: {error}"));
        let runtime = &self.context.runtime;
        for path in [self.context.dirs.volume(&uid), self.context.dirs.workspace(&uid)] {
            runtime.remove_tree(&path).await.map_err(|e| internal(e.to_string()))?;
        }
        self.record.latest.has_storage = false;
        self.set_state(WorkspaceState::Stopped, "deleted".to_owned());
        let change = Change::Delete(Box::new(self.record.latest.clone()));
        let committed = self.context.store.commit(Commit { change, persist: false });
        committed.await.unwrap_or(Err(crate::store::StoreError::Closed))?;
        Ok(())
    }

    // ---- telling

    fn report(&self) -> Report {
        Report { run: self.runs, events: self.events.0.clone() }
    }

    fn set_state(&mut self, state: WorkspaceState, detail: String) {
        let latest: &mut PhaseEvent = &mut self.record.latest;
        if latest.state() != state {
            latest.last_state = latest.state;
            latest.set_state(state);
        }
        latest.at = Some(SystemTime::now().into());
        latest.detail = detail;
    }

    /// Makes a transition and queues it to the journal.
    fn tell(&mut self, state: WorkspaceState, detail: String) -> Committed {
        self.set_state(state, detail);
        tracing::info!(
            workspace = self.record.uid(),
            state = state.short_name(),
            detail = self.record.latest.detail,
            "phase"
        );
        let change = Change::Update(Box::new(self.record.clone()));
        let committed = self.context.store.commit(Commit { change, persist: true });
        self.show();
        committed
    }

    /// Tells more words on a phase that takes its time.
    fn tell_detail(&mut self, detail: String) {
        let state = self.record.state();
        let Some(run) = self.run.as_mut() else { return };
        let told = matches!(run.stage, Stage::Starting | Stage::Up)
            && matches!(state, WorkspaceState::PullingImage | WorkspaceState::Preparing)
            && detail != self.record.latest.detail
            && run.last_detail.elapsed() >= DETAIL_INTERVAL;
        if told {
            run.last_detail = Instant::now();
            drop(self.tell(state, detail));
        }
    }

    fn warn(&mut self, warning: String) {
        let warnings = &mut self.record.latest.warnings;
        if warnings.len() < WARNINGS && !warnings.contains(&warning) {
            warnings.push(first_line(&warning));
        }
    }

    async fn note(&self, text: &str) {
        let line = Line::text(cordium_proto::v1::LogSource::System, text);
        if let Err(error) = self.log.append(&self.record.latest.run_id, vec![line]).await {
            tracing::warn!(workspace = self.record.uid(), %error, "writing to the workspace's log");
        }
    }

    fn show(&self) {
        let run = self.run.as_ref();
        let limit: Option<Limit> = run.and(self.record.latest.limit);
        let agent = run.filter(|run| run.stage == Stage::Up).and_then(|run| run.agent.clone());
        self.view.send_replace(View { state: self.record.state(), limit, agent });
    }
}

async fn answer(committed: Option<Committed>, reply: Reply<u64>) {
    let result = match committed {
        Some(committed) => committed.await.unwrap_or(Err(crate::store::StoreError::Closed)),
        None => Err(crate::store::StoreError::Closed),
    };
    // Whoever asked may have gone; the stop goes on all the same.
    let _ = reply.send(result.map(|event| event.revision).map_err(Into::into));
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}
