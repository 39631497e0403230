//! Changing what a run may reach and what is put on its requests: first in the record, then in its sandbox, so that a restart in
//! between loses nothing. Values of credentials are never in the record; whoever has them tells again.

use cordium_spec::Egress;

use super::*;
use crate::plan::{self, Secrets};

impl Actor {
    pub(super) async fn set_egress(
        &mut self,
        run_id: &str,
        egress: Egress,
        secrets: &Secrets,
        reply: Reply<bool>,
    ) {
        match self.record_egress(run_id, &egress, secrets).await {
            Ok(()) => self.apply_policy(Some(reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    async fn record_egress(
        &mut self,
        run_id: &str,
        egress: &Egress,
        secrets: &Secrets,
    ) -> Result<(), RequestError> {
        let runs = self.run.as_ref().is_some_and(|run| matches!(run.stage, Stage::Starting | Stage::Up));
        if !runs || self.record.latest.run_id != run_id {
            let message = format!("workspace {} has no run {run_id:?}", self.record.latest.workspace_name);
            return Err(RequestError::wrong_state(
                message,
                "what its spec says is in force from its next start",
            ));
        }
        let mut spec = cordium_spec::parse_resolved_json(&self.record.spec_json)
            .map_err(|error| RequestError::Internal(format!("the recorded spec: {error}")))?;
        spec.runtime.network.egress = egress.clone();
        let renewal = plan::renewal(&spec, secrets)?;
        let spec_json = serde_json::to_string(&spec)
            .map_err(|error| RequestError::Internal(format!("writing the spec: {error}")))?;
        let before = std::mem::replace(&mut self.record.spec_json, spec_json);
        let change = Change::Update(Box::new(self.record.clone()));
        let committed = self.context.store.commit(Commit { change, persist: false });
        if let Err(error) = committed.await.unwrap_or(Err(crate::store::StoreError::Closed)) {
            self.record.spec_json = before;
            return Err(error.into());
        }
        if let Some(run) = &mut self.run {
            run.stale_policy = true;
            let network = &spec.runtime.network;
            if !network.credentials.is_empty() || !network.services.is_empty() {
                run.renewal = Some(renewal.into());
            }
        }
        Ok(())
    }

    /// After a start-up or a take-over: what was changed meanwhile.
    pub(super) fn refresh_policy(&mut self) {
        if self.run.as_ref().is_some_and(|run| run.stale_policy) {
            self.apply_policy(None);
        }
    }

    /// Gives the sandbox the record's policy, if it is there already. The owner does not wait for the keeper; an older
    /// policy never follows a newer one.
    fn apply_policy(&mut self, reply: Option<Reply<bool>>) {
        let uid = self.record.uid().to_owned();
        let Some(run) = &mut self.run else { return };
        let Some(sandbox) = run.sandbox.clone().filter(|_| run.stage == Stage::Up) else {
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                let _ = reply.send(Ok(false));
            }
            return;
        };
        run.stale_policy = false;
        let renewal = run.renewal.clone();
        let egress =
            cordium_spec::parse_resolved_json(&self.record.spec_json).map(|spec| spec.runtime.network.egress);
        let policy = egress.map(|egress| self.context.sandbox.policy(&egress));
        self.policies.0 += 1;
        let (number, newest) = self.policies.clone();
        self.context.tasks.spawn(async move {
            let mut newest = newest.lock().await;
            let told = match &policy {
                _ if *newest > number => Ok(()),
                Ok(policy) => {
                    let told = sandbox.set_policy(policy, renewal.as_deref()).await;
                    told.map_err(|error| error.to_string())
                }
                Err(error) => Err(format!("the recorded spec: {error}")),
            };
            if told.is_ok() {
                *newest = number.max(*newest);
            }
            if let Err(error) = &told {
                tracing::error!(workspace = uid, error, "the run keeps its old egress policy");
            }
            if let Some(reply) = reply {
                let failed =
                    |error| RequestError::Internal(format!("the run keeps its old egress policy: {error}"));
                let _ = reply.send(told.map(|()| true).map_err(failed));
            }
        });
    }
}
