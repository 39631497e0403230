//! Making transitions and telling them.

use super::*;

impl Actor {
    pub(super) fn report(&self) -> Report {
        Report { run: self.runs, events: self.events.0.clone() }
    }

    pub(super) fn set_state(&mut self, state: WorkspaceState, detail: String) {
        let latest: &mut PhaseEvent = &mut self.record.latest;
        if latest.state() != state {
            latest.last_state = latest.state;
            latest.set_state(state);
        }
        latest.at = Some(SystemTime::now().into());
        // An agent may say anything, and every detail is kept in the journal.
        latest.detail = first_line(&detail);
    }

    /// Makes a transition and queues it to the journal.
    pub(super) fn tell(&mut self, state: WorkspaceState, detail: String) -> Committed {
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
    pub(super) fn tell_detail(&mut self, detail: String) {
        let detail = first_line(&detail);
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

    pub(super) fn warn(&mut self, warning: String) {
        let warnings = &mut self.record.latest.warnings;
        let warning = first_line(&warning);
        if warnings.len() < WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Takes in what the keeper says of memory and storage, and tells it at once: no transition may come for days.
    pub(super) async fn on_reported(&mut self, reported: Reported) {
        if self.run.as_ref().is_none_or(|run| run.stage != Stage::Up) {
            return;
        }
        let before = self.record.latest.warnings.clone();
        if reported.oom_kills > 0 {
            let text = oom_warning(&reported);
            if !before.contains(&text) {
                self.note(&text).await;
                self.record.latest.warnings.retain(|warning| !warning.starts_with(OOM_WARNING));
                self.warn(text);
            }
        }
        for warning in reported.warnings {
            self.warn(warning);
        }
        let state = self.record.state();
        if self.record.latest.warnings != before
            && matches!(state, WorkspaceState::Preparing | WorkspaceState::Running)
        {
            let detail = self.record.latest.detail.clone();
            drop(self.tell(state, detail));
        }
    }

    pub(super) async fn note(&self, text: &str) {
        let line = Line::text(cordium_proto::v1::LogSource::System, text);
        if let Err(error) = self.log.append(&self.record.latest.run_id, vec![line]).await {
            tracing::warn!(workspace = self.record.uid(), %error, "writing to the workspace's log");
        }
    }

    pub(super) fn show(&self) {
        let run = self.run.as_ref();
        let limit: Option<Limit> = run.and(self.record.latest.limit);
        let up = run.filter(|run| run.stage == Stage::Up);
        let agent = up.and_then(|run| run.agent.clone());
        let sandbox = up.and_then(|run| run.sandbox.clone());
        self.view.send_replace(View { state: self.record.state(), limit, agent, sandbox });
    }
}
