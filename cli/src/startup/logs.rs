//! The log of a run while it starts. There may be none yet: it is asked for until there is.
//!
//! The node has in its log whatever was printed before a phase by the time it tells the phase, but the two streams are not
//! ordered on their way here. So the end is not waited for: what is there when the phase is known is read to its end.

use std::time::Duration;

use cordium_proto::v1::{LogEntry, LogsRequest};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    client::Client,
    session::loglines::{Assembler, LogLine},
};

/// For what is left when the end is known. It is on the node's disk: only one that does not answer takes this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(1);

pub struct Follower {
    lines: mpsc::Receiver<LogLine>,
    /// Sent once no more than what is there now is wanted.
    last: oneshot::Sender<()>,
    task: Guard,
}

/// Ends the task with its owner.
struct Guard(JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    pub fn spawn(client: &Client, workspace: &str, run_id: &str) -> Self {
        let (tx, lines) = mpsc::channel(256);
        let (last, ended) = oneshot::channel();
        let copier = Copier {
            client: client.clone(),
            workspace: workspace.to_owned(),
            run_id: run_id.to_owned(),
            after_seq: 0,
            assembler: Assembler::default(),
            lines: tx,
        };
        Self { lines, last, task: Guard(tokio::spawn(copier.run(ended))) }
    }

    /// The next line; never ends before it is dropped.
    pub async fn next(&mut self) -> LogLine {
        match self.lines.recv().await {
            Some(line) => line,
            None => std::future::pending().await,
        }
    }

    /// What is still on its way when the phase stream has told the end.
    pub async fn drain(self, mut show: impl FnMut(LogLine)) {
        let Self { mut lines, last, task } = self;
        // One that has ended has sent everything.
        let _ = last.send(());
        let all = async {
            while let Some(line) = lines.recv().await {
                show(line);
            }
        };
        let _ = tokio::time::timeout(DRAIN_LIMIT, all).await;
        drop(task);
    }
}

/// Nobody reads any more.
struct Gone;

/// Why a stream is not read on.
enum Pause {
    Broken,
    Ended,
}

struct Copier {
    client: Client,
    workspace: String,
    run_id: String,
    after_seq: u64,
    assembler: Assembler,
    lines: mpsc::Sender<LogLine>,
}

impl Copier {
    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        let mut pause = FIRST_RETRY;
        loop {
            let before = self.after_seq;
            match self.follow(&mut ended).await {
                Ok(Pause::Broken) => {}
                Ok(Pause::Ended) => break,
                Err(Gone) => return,
            }
            if self.after_seq != before {
                pause = FIRST_RETRY;
            }
            tokio::select! {
                _ = &mut ended => break,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            }
        }
        // Whoever does not read any more misses nothing.
        let _ = self.read_to_end().await;
    }

    /// Sends the lines of what comes, until the node ends the stream or the end is known.
    async fn follow(&mut self, ended: &mut oneshot::Receiver<()>) -> Result<Pause, Gone> {
        let mut session = self.client.session();
        let mut entries = tokio::select! {
            _ = &mut *ended => return Ok(Pause::Ended),
            answer = session.logs(self.request(true)) => match answer {
                Ok(answer) => answer.into_inner(),
                Err(_) => return Ok(Pause::Broken),
            },
        };
        loop {
            tokio::select! {
                _ = &mut *ended => return Ok(Pause::Ended),
                entry = entries.message() => match entry {
                    Ok(Some(entry)) => self.feed(&entry).await?,
                    Ok(None) | Err(_) => return Ok(Pause::Broken),
                },
            }
        }
    }

    /// Sends the lines of what is there now, the last one also without an end.
    async fn read_to_end(&mut self) -> Result<(), Gone> {
        if let Ok(answer) = self.client.session().logs(self.request(false)).await {
            let mut entries = answer.into_inner();
            while let Ok(Some(entry)) = entries.message().await {
                self.feed(&entry).await?;
            }
        }
        for line in self.assembler.flush() {
            self.send(line).await?;
        }
        Ok(())
    }

    fn request(&self, follow: bool) -> LogsRequest {
        LogsRequest {
            workspace: self.workspace.clone(),
            follow,
            after_seq: self.after_seq,
            ..LogsRequest::default()
        }
    }

    async fn feed(&mut self, entry: &LogEntry) -> Result<(), Gone> {
        if entry.run_id.is_empty() || entry.run_id == self.run_id {
            for line in self.assembler.feed(entry) {
                self.send(line).await?;
            }
        }
        self.after_seq = self.after_seq.max(entry.seq);
        Ok(())
    }

    async fn send(&self, line: LogLine) -> Result<(), Gone> {
        self.lines.send(line).await.map_err(|_| Gone)
    }
}
