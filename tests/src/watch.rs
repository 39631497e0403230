//! Waits for phases on the watch stream, and keeps what went by.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use cordium_proto::v1::{Failure, Resource, WatchWorkspacesRequest, WorkspaceEvent, WorkspaceState};
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::client::Clients;

pub struct Watch {
    stream: Streaming<WorkspaceEvent>,
    /// Every state in the order of its arrival, repetitions left out.
    pub seen: Vec<WorkspaceState>,
    /// The revision of the last event.
    pub revision: u64,
    /// Events that did not grow the revision.
    pub out_of_order: usize,
}

impl Watch {
    /// Watches one workspace (or all, with an empty name) from now on, a snapshot first.
    pub async fn open(clients: &Clients, workspace: &str) -> Result<Self> {
        Self::after(clients, workspace, 0).await
    }

    /// Watches from a revision on.
    pub async fn after(clients: &Clients, workspace: &str, after_revision: u64) -> Result<Self> {
        let request =
            WatchWorkspacesRequest { after_revision, r#ref: workspace.to_owned(), ..Default::default() };
        let stream =
            clients.control.clone().watch_workspaces(request).await.context("watching workspaces")?;
        Ok(Self { stream: stream.into_inner(), seen: Vec::new(), revision: after_revision, out_of_order: 0 })
    }

    /// The next event, within a time.
    pub async fn next(&mut self, limit: Duration) -> Result<WorkspaceEvent> {
        self.next_at(Instant::now() + limit).await
    }

    async fn next_at(&mut self, end: Instant) -> Result<WorkspaceEvent> {
        let event = timeout_at(end, self.stream.message())
            .await
            .with_context(|| format!("no event in time; seen so far: {}", names(&self.seen)))?
            .context("watching workspaces")?
            .context("the watch stream ended")?;
        if event.revision <= self.revision && !event.phase.as_ref().is_some_and(|phase| phase.snapshot) {
            self.out_of_order += 1;
        }
        self.revision = self.revision.max(event.revision);
        let state = state_of(&event);
        if self.seen.last() != Some(&state) {
            self.seen.push(state);
        }
        Ok(event)
    }

    /// Waits for an event that `wanted` accepts.
    pub async fn until(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&WorkspaceEvent) -> bool,
    ) -> Result<WorkspaceEvent> {
        let end = Instant::now() + limit;
        loop {
            let event = self.next_at(end).await?;
            if wanted(&event) {
                return Ok(event);
            }
        }
    }

    /// Waits for RUNNING; fails at once when the run fails instead.
    pub async fn running(&mut self, limit: Duration) -> Result<Resource> {
        let mut started = false;
        let event = self
            .until(limit, |event| {
                let state = state_of(event);
                let ended = started && state == WorkspaceState::Stopped;
                started |= state != WorkspaceState::Stopped;
                state == WorkspaceState::Running || ended
            })
            .await?;
        if state_of(&event) != WorkspaceState::Running {
            let failure = failure_of(&event)
                .map_or_else(|| "no failure given".to_owned(), |failure| describe(&failure));
            bail!("the run ended before RUNNING: {failure}; states: {}", names(&self.seen));
        }
        event.workspace.context("event carries no workspace")
    }

    /// Waits until a run that has begun is over.
    pub async fn stopped(&mut self, limit: Duration) -> Result<WorkspaceEvent> {
        let mut started = self.seen.iter().any(|state| *state != WorkspaceState::Stopped);
        self.until(limit, |event| {
            let state = state_of(event);
            started |= state != WorkspaceState::Stopped;
            started && state == WorkspaceState::Stopped
        })
        .await
    }

    /// The states must grow strictly; one STOPPED may lead.
    pub fn assert_order(&self) -> Result<()> {
        assert_order(&self.seen)
    }
}

pub fn assert_order(seen: &[WorkspaceState]) -> Result<()> {
    let states = match seen {
        [WorkspaceState::Stopped, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    if states.is_empty() || states.windows(2).any(|pair| (pair[0] as i32) >= (pair[1] as i32)) {
        bail!("states are not in order: {}", names(seen));
    }
    Ok(())
}

pub fn names(states: &[WorkspaceState]) -> String {
    states.iter().map(|state| state.short_name()).collect::<Vec<_>>().join(" → ")
}

pub fn state_of(event: &WorkspaceEvent) -> WorkspaceState {
    let phase = event.phase.as_ref().map(cordium_proto::v1::PhaseEvent::state);
    phase
        .or_else(|| event.workspace.as_ref()?.status.as_ref().map(cordium_proto::v1::WorkspaceStatus::state))
        .unwrap_or(WorkspaceState::Unknown)
}

pub fn failure_of(event: &WorkspaceEvent) -> Option<Failure> {
    let phase = event.phase.as_ref().and_then(|phase| phase.failure.clone());
    phase.or_else(|| event.workspace.as_ref()?.status.as_ref()?.failure.clone())
}

pub fn describe(failure: &Failure) -> String {
    format!("{:?}: {}", failure.r#type, failure.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use WorkspaceState::{InitRequest, Initializing, Running, Stopped};

    #[test]
    fn order_allows_one_leading_stop() {
        assert!(assert_order(&[Stopped, InitRequest, Initializing, Running]).is_ok());
        assert!(assert_order(&[InitRequest, Running, Stopped]).is_ok());
        assert!(assert_order(&[Running, InitRequest]).is_err());
        assert!(assert_order(&[InitRequest, InitRequest]).is_err());
        assert!(assert_order(&[]).is_err());
    }
}
