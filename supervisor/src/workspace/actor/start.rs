//! Beginning a run, or taking one over, and what its start-up made.

use super::*;

impl Actor {
    pub(super) async fn start(&mut self, plan: RunPlan, spec_json: String) -> Result<u64, RequestError> {
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
        self.context.volumes.claim(&plan.prepare.workspace_uid, &plan.volumes)?;
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
                self.context.volumes.release(self.record.uid());
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
    pub(super) fn take_over(&mut self) {
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
        // The node's configuration may have changed, or the last change was recorded and not told.
        run.stale_policy = true;
        let adoption = adoption::Adoption {
            context: self.context.clone(),
            uid: self.record.uid().to_owned(),
            state,
            image: self.record.image_digest.clone(),
            report,
        };
        self.context.tasks.spawn(adoption.run());
    }

    pub(super) fn begin_run(&mut self, ephemeral: bool, deadline: Option<Instant>) {
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
            stale_policy: false,
            renewal: None,
            deadline,
            last_detail: Instant::now(),
        });
    }

    pub(super) fn on_phase(&mut self, state: WorkspaceState, detail: String, warnings: Vec<String>) {
        if self.run.as_ref().is_none_or(|run| run.stage != Stage::Starting) {
            return;
        }
        // From here on something may lie on disk.
        self.record.latest.has_storage = true;
        warnings.into_iter().for_each(|warning| self.warn(warning));
        drop(self.tell(state, detail));
    }

    pub(super) fn on_startup_ended(&mut self, end: StartupEnd) {
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
                    let reports = sandbox.reported();
                    context.tasks.spawn(follow::reports(reports, run.cancel.clone(), report.clone()));
                    context.tasks.spawn(follow::wait(sandbox, run.cancel.clone(), report.clone()));
                }
                let lost_after = context.timeouts.agent_lost;
                let pump = follow::Pump::spawn(&context, agent.clone(), log, run_id);
                let watch =
                    follow::watch(agent.clone(), pump.copied(), run.cancel.clone(), report, lost_after);
                context.tasks.spawn(watch);
                run.pump = Some(pump);
                run.agent = Some(agent);
                self.show();
                self.refresh_policy();
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
}
