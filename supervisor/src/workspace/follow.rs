//! What goes on beside a workspace that is up: the watch on its agent, the wait for its sandbox, its log.
//!
//! What was printed before an event is in the node's log before the event is told: who sees RUNNING and then reads the
//! log finds all that the tasks have said.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{LogEntry, LogsRequest, WatchAgentRequest};
use cordium_runtime::Reported;
use futures::StreamExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Event, Halted, Report};
use crate::{
    agent_link::AgentLink,
    context::Context,
    logs::{Line, Log},
    runtime::SandboxHandle,
};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// How many log entries are written at once.
const LOG_BATCH: usize = 64;
/// How long an event waits for the log before it: an agent may claim more entries than it has.
const LOG_LIMIT: Duration = Duration::from_secs(2);

/// Reports the end of the sandbox.
pub async fn wait(sandbox: Arc<dyn SandboxHandle>, cancel: CancellationToken, report: Report) {
    tokio::select! {
        () = cancel.cancelled() => {}
        ended = sandbox.wait() => {
            // Without an owner nobody wants to know.
            let _ = report.send(Event::SandboxEnded(ended)).await;
        }
    }
}

/// Passes on what the keeper finds out, the newest of it.
pub async fn reports(mut reports: watch::Receiver<Reported>, cancel: CancellationToken, report: Report) {
    loop {
        let reported = reports.borrow_and_update().clone();
        if reported != Reported::default() && report.send(Event::Reported(reported)).await.is_err() {
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = reports.changed() => if changed.is_err() { return },
        }
    }
}

/// Reports every event of the agent once, across broken connections, until it is out of reach for `lost_after`.
pub async fn watch(
    link: AgentLink,
    copied: Copied,
    cancel: CancellationToken,
    report: Report,
    lost_after: Duration,
) {
    tokio::select! {
        () = cancel.cancelled() => {}
        ended = watch_until_lost(link, copied, &report, lost_after) => if let Ok(message) = ended {
            // As above.
            let _ = report.send(Event::AgentLost(message)).await;
        }
    }
}

async fn watch_until_lost(
    link: AgentLink,
    mut copied: Copied,
    report: &Report,
    lost_after: Duration,
) -> Result<String, Halted> {
    let mut seen = 0;
    let mut reached = Instant::now();
    let mut retry = FIRST_RETRY;
    loop {
        let problem = match link.agent().watch_agent(WatchAgentRequest {}).await {
            Ok(events) => {
                let connected = Instant::now();
                // The agent repeats everything since it began.
                let mut events = events.into_inner().skip(seen);
                let problem = loop {
                    match events.next().await {
                        Some(Ok(event)) => {
                            seen += 1;
                            copied.reach(event.log_seq).await;
                            report.send(Event::Agent(event)).await?;
                        }
                        Some(Err(status)) => break status.message().to_owned(),
                        None => break "it ended its event stream".to_owned(),
                    }
                };
                // One that hangs up at once cannot be said to answer.
                if connected.elapsed() > FIRST_RETRY {
                    reached = Instant::now();
                    retry = FIRST_RETRY;
                }
                problem
            }
            Err(status) => status.message().to_owned(),
        };
        if reached.elapsed() >= lost_after {
            return Ok(format!("the agent does not answer any more: {problem}"));
        }
        sleep(retry).await;
        retry = (retry * 2).min(LAST_RETRY);
    }
}

/// How far the agent's log has been copied to the node.
pub struct Copied {
    newest: watch::Receiver<u64>,
    given_up: bool,
}

impl Copied {
    /// Waits until the entry `seq` is on the node. One that does not come in time is the last that is waited for.
    async fn reach(&mut self, seq: u64) {
        if self.given_up {
            return;
        }
        // An error is the end of the copier: no more is coming.
        if timeout(LOG_LIMIT, self.newest.wait_for(|newest| *newest >= seq)).await.is_err() {
            tracing::warn!(seq, "a workspace's log is behind what its agent says");
            self.given_up = true;
        }
    }
}

/// Copies the agent's log to the node.
pub struct Pump {
    task: JoinHandle<()>,
    drain: CancellationToken,
    newest: watch::Receiver<u64>,
}

impl Pump {
    pub fn spawn(context: &Arc<Context>, link: AgentLink, log: Arc<Log>, run_id: String) -> Self {
        let drain = CancellationToken::new();
        let (cursor, newest) = watch::channel(0);
        let copier = Copier { link, log, run_id, cursor };
        let (last, shutdown) = (drain.clone(), context.shutdown.clone());
        let task = context.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = copier.run(last) => {}
            }
        });
        Self { task, drain, newest }
    }

    /// How far it is.
    pub fn copied(&self) -> Copied {
        Copied { newest: self.newest.clone(), given_up: false }
    }

    /// Copies what is there now and ends. The agent must still be there.
    pub async fn finish(self, limit: Duration) {
        self.drain.cancel();
        let abort = self.task.abort_handle();
        if timeout(limit, self.task).await.is_err() {
            tracing::warn!("the last log entries of a workspace did not come in time");
            abort.abort();
        }
    }
}

struct Copier {
    link: AgentLink,
    log: Arc<Log>,
    run_id: String,
    /// The last entry that is on the node.
    cursor: watch::Sender<u64>,
}

impl Copier {
    async fn run(self, drain: CancellationToken) {
        match self.log.agent_cursor(&self.run_id).await {
            Ok(cursor) => drop(self.cursor.send_replace(cursor)),
            Err(error) => tracing::warn!(%error, "opening a workspace's log"),
        }
        let mut retry = FIRST_RETRY;
        while !drain.is_cancelled() {
            tokio::select! {
                () = drain.cancelled() => break,
                copied = self.copy(true) => if copied { retry = FIRST_RETRY },
            }
            tokio::select! {
                () = drain.cancelled() => break,
                () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
            }
        }
        self.copy(false).await;
    }

    /// Copies until the stream ends; says whether anything came.
    async fn copy(&self, follow: bool) -> bool {
        let request = LogsRequest { follow, after_seq: *self.cursor.borrow(), ..LogsRequest::default() };
        let Ok(entries) = self.link.session().logs(request).await else { return false };
        let mut batches = entries.into_inner().ready_chunks(LOG_BATCH);
        let mut copied = false;
        while let Some(batch) = batches.next().await {
            let entries: Vec<LogEntry> = batch.into_iter().filter_map(Result::ok).collect();
            let Some(last) = entries.last().map(|entry| entry.seq) else { continue };
            let lines = entries.into_iter().map(line_of).collect();
            if let Err(error) = self.log.append(&self.run_id, lines).await {
                // The disk may be full; the entries are lost and the numbers will show it.
                tracing::warn!(%error, "writing to a workspace's log");
            }
            self.cursor.send_replace(last);
            copied = true;
        }
        copied
    }
}

fn line_of(entry: LogEntry) -> Line {
    Line {
        source: entry.source(),
        stream: entry.stream(),
        // Kept with every entry, and an entry that is too long would hide all after it.
        name: entry.name.chars().take(256).collect(),
        data: entry.data,
        at: entry.at,
        agent_seq: entry.seq,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{net::UnixListener, sync::mpsc};

    use super::*;

    #[tokio::test]
    async fn an_agent_that_takes_connections_but_never_answers_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                held.push(stream);
            }
        });
        let (events, mut heard) = mpsc::channel(4);
        let report = Report { run: 1, events };
        let link = AgentLink::with_keep_alive(&socket, Duration::from_millis(50), Duration::from_millis(100));
        let copied = Copied { newest: watch::channel(0).1, given_up: false };
        let watch = super::watch(link, copied, CancellationToken::new(), report, Duration::from_millis(300));
        timeout(Duration::from_secs(20), watch).await.unwrap();
        assert!(matches!(heard.recv().await, Some((1, Event::AgentLost(_)))));
    }
}
