//! Ending a run, and removing a workspace.

use super::*;

impl Actor {
    pub(super) fn stop(&mut self, reason: StoppingReason, force: bool, reply: Reply<u64>) {
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
    pub(super) fn fail(&mut self, failure: Failure) {
        if self.run.as_ref().is_some_and(|run| matches!(run.stage, Stage::Starting | Stage::Up)) {
            tracing::warn!(workspace = self.record.uid(), message = failure.message, "the run failed");
            drop(self.begin_stop(StoppingReason::Error, Some(failure), false));
        }
    }

    pub(super) fn begin_stop(
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

    pub(super) fn force(&self) {
        if let Some(run) = &self.run {
            run.force.cancel();
        }
    }

    pub(super) fn launch_halt(&mut self) {
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

    pub(super) async fn on_halt_ended(&mut self, end: HaltEnd) {
        end.warnings.into_iter().for_each(|warning| self.warn(warning));
        // What cannot be ended may still write to them.
        if end.failure.is_none() {
            self.context.volumes.release(self.record.uid());
            self.context.ids.release(self.record.uid());
        }
        if self.record.latest.failure.is_none() {
            self.record.latest.failure = end.failure;
        }
        if end.storage_removed {
            self.context.ids.forget(self.record.uid());
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

    pub(super) async fn delete(&mut self) {
        let result = self.remove().await;
        if result.is_ok() {
            self.deleted = true;
            self.inbox.close();
        }
        for reply in self.deletions.drain(..) {
            let _ = reply.send(result.clone());
        }
    }

    pub(super) async fn remove(&mut self) -> Result<(), RequestError> {
        self.log.close();
        let uid = self.record.uid().to_owned();
        let internal = |error: String| RequestError::Internal(format!("deleting workspace {uid}: {error}"));
        let runtime = &self.context.runtime;
        for path in [self.context.dirs.volume(&uid), self.context.dirs.workspace(&uid)] {
            runtime.remove_tree(&path).await.map_err(|e| internal(e.to_string()))?;
        }
        self.context.ids.forget(&uid);
        self.record.latest.has_storage = false;
        self.set_state(WorkspaceState::Stopped, "deleted".to_owned());
        let change = Change::Delete(Box::new(self.record.latest.clone()));
        let committed = self.context.store.commit(Commit { change, persist: false });
        committed.await.unwrap_or(Err(crate::store::StoreError::Closed))?;
        Ok(())
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
