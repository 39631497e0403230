//! The log of a run while it starts. There may be none yet: it is asked for until there is.

use std::time::Duration;

use cordium_proto::v1::{LogSource, LogsRequest};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    client::Client,
    session::loglines::{Assembler, LogLine},
};

pub struct Follower {
    rx: mpsc::Receiver<LogLine>,
    task: JoinHandle<()>,
    /// Something inside has printed: what it said last may still be on its way.
    seen_output: bool,
}

impl Follower {
    pub fn spawn(client: &Client, workspace: &str, run_id: &str) -> Self {
        let (tx, rx) = mpsc::channel(256);
        let task = tokio::spawn(follow(client.clone(), workspace.to_owned(), run_id.to_owned(), tx));
        Self { rx, task, seen_output: false }
    }

    /// The next line; never ends before it is dropped.
    pub async fn next(&mut self) -> LogLine {
        match self.rx.recv().await {
            Some(line) => {
                self.seen_output |= line.source != LogSource::Image;
                line
            }
            None => std::future::pending().await,
        }
    }

    /// What is still on its way when the phase stream has told the end: the two streams are not ordered.
    pub async fn drain(mut self, mut show: impl FnMut(LogLine)) {
        let quiet = Duration::from_millis(if self.seen_output { 60 } else { 5 });
        let all = async {
            while let Ok(Some(line)) = tokio::time::timeout(quiet, self.rx.recv()).await {
                show(line);
            }
        };
        // A task that goes on printing in the background does not hold us.
        let _ = tokio::time::timeout(Duration::from_millis(500), all).await;
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, workspace: String, run_id: String, tx: mpsc::Sender<LogLine>) {
    let mut after_seq = 0;
    let mut pause = Duration::from_millis(20);
    let mut assembler = Assembler::default();
    loop {
        let request =
            LogsRequest { workspace: workspace.clone(), follow: true, after_seq, ..LogsRequest::default() };
        if let Ok(response) = client.session().logs(request).await {
            let mut stream = response.into_inner();
            while let Ok(Some(entry)) = stream.message().await {
                pause = Duration::from_millis(20);
                after_seq = after_seq.max(entry.seq);
                if !entry.run_id.is_empty() && entry.run_id != run_id {
                    after_seq = 0;
                    continue;
                }
                for line in assembler.feed(&entry) {
                    if tx.send(line).await.is_err() {
                        return;
                    }
                }
            }
            for line in assembler.flush() {
                if tx.send(line).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
