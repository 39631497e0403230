//! Follows one workspace on the phase stream to a goal, with its log beside it.
//!
//! The stream is opened before the request is sent, so that no phase is missed; it is opened again from the last
//! revision when the connection breaks.

use std::time::{Duration, Instant};

use cordium_proto::v1::{Resource, WatchWorkspacesRequest, WorkspaceEvent, WorkspaceState};
use tonic::Streaming;

use super::{
    failure,
    logs::Follower,
    tracker::{Step, Tracker},
    view::View,
};
use crate::{
    client::Client,
    cmd::resource,
    error::{CliError, CliResult, Doing as _},
    interrupt::Interrupt,
};

/// The stream begins with what is now. Only once that has come is it sure that our request's phases come after it.
const SNAPSHOT_LIMIT: Duration = Duration::from_secs(2);
/// How long a broken stream is tried again before we give up.
const RECONNECT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    Running,
    Stopped,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Reached,
    Interrupted,
}

pub struct Follow<'a> {
    client: &'a Client,
    uid: String,
    name: String,
    revision: u64,
    stream: Streaming<WorkspaceEvent>,
    first: Option<WorkspaceEvent>,
    tracker: Tracker,
    began: Instant,
    show_logs: bool,
    /// The workspace is stopped as we begin: a STOPPED that is told first is not the end we wait for.
    at_rest: bool,
}

impl<'a> Follow<'a> {
    /// Begins to watch; nothing that happens from here on is missed.
    pub async fn begin(client: &'a Client, workspace: &Resource, show_logs: bool) -> CliResult<Follow<'a>> {
        let meta = workspace.metadata.clone().unwrap_or_default();
        let doing = format!("watch workspace {}", meta.name);
        let mut stream = open(client, &meta.uid, 0).await.doing(&doing)?;
        let first = match tokio::time::timeout(SNAPSHOT_LIMIT, stream.message()).await {
            Ok(first) => first.doing(&doing)?,
            Err(_) => None,
        };
        Ok(Self {
            client,
            uid: meta.uid,
            name: meta.name,
            revision: first.as_ref().map_or(0, |event| event.revision),
            stream,
            first,
            tracker: Tracker::default(),
            began: Instant::now(),
            show_logs,
            at_rest: matches!(resource::state(workspace), WorkspaceState::Stopped | WorkspaceState::Unknown),
        })
    }

    /// Shows what happens until the goal is reached. `run_id` is the run to wait for, if it is known.
    pub async fn until(mut self, goal: Goal, run_id: &str, interrupt: &mut Interrupt) -> CliResult<Outcome> {
        let view = View::new();
        let mut logs: Option<Follower> = None;
        let mut moved = false;
        loop {
            let event = tokio::select! {
                biased;
                () = interrupt.first() => return Ok(Outcome::Interrupted),
                event = self.next() => event?,
                line = next_line(&mut logs) => {
                    view.log(&line);
                    continue;
                }
            };
            if event.deleted {
                return Err(CliError::new(format!("workspace {} was deleted meanwhile", self.name)));
            }
            let Some(phase) = &event.phase else {
                let status = event.workspace.and_then(|workspace| workspace.status).unwrap_or_default();
                self.tracker.new_warnings(&status.warnings).iter().for_each(|text| view.warning(text));
                continue;
            };
            // A snapshot tells what was before our request, unless it is of our run.
            let ours = run_id.is_empty() || phase.run_id == run_id;
            if !ours && phase.state() == WorkspaceState::Stopped {
                continue;
            }
            moved |= !phase.snapshot
                || phase.state() != WorkspaceState::Stopped
                || (!run_id.is_empty() && phase.run_id == run_id);
            if self.show_logs && logs.is_none() && !phase.run_id.is_empty() && ours && moved {
                logs = Some(Follower::spawn(self.client, &self.uid, &phase.run_id));
            }
            for step in self.tracker.feed(phase, Instant::now(), moved || !self.at_rest) {
                match step {
                    Step::Done { state, took, detail } => view.done(state, took, &detail),
                    Step::Now { state, detail } => view.now(state, &detail),
                    // Who waits for the end knows, or did not ask, what was before.
                    Step::Warning(_) | Step::Running if phase.snapshot && goal == Goal::Stopped => {}
                    Step::Warning(text) => view.warning(&text),
                    Step::Running if goal == Goal::Running => {
                        drain(logs.take(), &view).await;
                        view.reached(&self.name, WorkspaceState::Running, Some(self.began.elapsed()));
                        return Ok(Outcome::Reached);
                    }
                    Step::Running => view.reached(&self.name, WorkspaceState::Running, None),
                    Step::Stopped { failure, failed_in } => {
                        drain(logs.take(), &view).await;
                        view.reached(&self.name, WorkspaceState::Stopped, None);
                        if goal == Goal::Stopped && failure.is_none() {
                            return Ok(Outcome::Reached);
                        }
                        drop(view);
                        return Err(failure::error(&self.name, failure.as_deref(), failed_in));
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> CliResult<WorkspaceEvent> {
        if let Some(event) = self.first.take() {
            return Ok(event);
        }
        let mut broken_since: Option<Instant> = None;
        let mut pause = Duration::from_millis(50);
        loop {
            let status = match self.stream.message().await {
                Ok(Some(event)) => {
                    self.revision = self.revision.max(event.revision);
                    return Ok(event);
                }
                Ok(None) => tonic::Status::unavailable("the phase stream ended"),
                Err(status) => status,
            };
            let since = *broken_since.get_or_insert_with(Instant::now);
            loop {
                if since.elapsed() > RECONNECT_LIMIT {
                    return Err(CliError::from_status(&format!("watch workspace {}", self.name), &status));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
                if let Ok(stream) = open(self.client, &self.uid, self.revision).await {
                    self.stream = stream;
                    break;
                }
            }
        }
    }
}

async fn open(client: &Client, uid: &str, after: u64) -> Result<Streaming<WorkspaceEvent>, tonic::Status> {
    let request =
        WatchWorkspacesRequest { after_revision: after, r#ref: uid.to_owned(), space: String::new() };
    Ok(client.control().watch_workspaces(request).await?.into_inner())
}

async fn next_line(logs: &mut Option<Follower>) -> crate::session::loglines::LogLine {
    match logs {
        Some(follower) => follower.next().await,
        None => std::future::pending().await,
    }
}

async fn drain(logs: Option<Follower>, view: &View) {
    if let Some(follower) = logs {
        follower.drain(|line| view.log(&line)).await;
    }
}
