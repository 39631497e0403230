//! The log of a workspace: the image pull, clones, tasks and the node's own words, kept on the node so that it
//! can be read after the run has ended or failed.
//!
//! A log is two segments of at most 8 MiB; when the newer is full, the older is dropped. Entries are numbered over all
//! runs of the workspace, so that "after this one" means the same across a restart. A reader is a cursor in
//! the files: a slow one holds no memory, and skips ahead, with a visible jump in the numbers, when
//! its segment has been dropped.

mod follow;
mod frame;
mod segments;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cordium_proto::v1::{LogEntry, LogSource, LogStream};
use tokio::sync::watch;

pub use follow::Query;
use frame::Stored;
use segments::Segments;

/// The size at which a segment is full.
pub const SEGMENT_BYTES: u64 = 8 << 20;
/// The most bytes of output in one entry.
const ENTRY_BYTES: usize = 256 << 10;

/// A failed step of writing or reading a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{doing} the log {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The segment or its directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process is shutting down.
    #[error("reading the log was cut off by the end of the supervisor")]
    Ended,
}

/// An entry that is to be appended.
#[derive(Debug, Clone)]
pub struct Line {
    /// Where it comes from.
    pub source: LogSource,
    /// The task's or the repository's name.
    pub name: String,
    /// Standard output or error.
    pub stream: LogStream,
    /// The bytes.
    pub data: bytes::Bytes,
    /// When it was written; unset means now.
    pub at: Option<prost_types::Timestamp>,
    /// The entry's number at the agent, or 0.
    pub agent_seq: u64,
}

impl Line {
    /// A line of the node's own.
    pub fn text(source: LogSource, text: impl Into<String>) -> Self {
        let mut text = text.into();
        text.push('\n');
        Self {
            source,
            name: String::new(),
            stream: LogStream::Stdout,
            data: text.into(),
            at: None,
            agent_seq: 0,
        }
    }
}

/// The newest entry, and whether more may come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Head {
    newest: u64,
    running: bool,
}

/// The log of one workspace.
pub struct Log {
    dir: PathBuf,
    segment_bytes: u64,
    segments: Mutex<Option<Segments>>,
    head: watch::Sender<Head>,
}

impl Log {
    /// The log in `dir`, which is made when the first entry comes.
    pub fn new(dir: &Path) -> Arc<Self> {
        Self::with_segments_of(dir, SEGMENT_BYTES)
    }

    fn with_segments_of(dir: &Path, segment_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            segment_bytes,
            segments: Mutex::new(None),
            head: watch::Sender::new(Head::default()),
        })
    }

    /// Says whether a run is on, so that those who follow know when to end.
    pub fn set_running(&self, running: bool) {
        self.head.send_if_modified(|head| std::mem::replace(&mut head.running, running) != running);
    }

    /// Appends entries of the run `run_id`, in order.
    pub async fn append(self: &Arc<Self>, run_id: &str, lines: Vec<Line>) -> Result<(), LogError> {
        if lines.is_empty() {
            return Ok(());
        }
        let (log, run_id) = (self.clone(), run_id.to_owned());
        blocking(move || log.append_now(&run_id, lines)).await
    }

    fn append_now(&self, run_id: &str, lines: Vec<Line>) -> Result<(), LogError> {
        let newest = self.with_segments(|segments| segments.append(run_id, lines, ENTRY_BYTES))?;
        self.head.send_modify(|head| head.newest = newest);
        Ok(())
    }

    /// The number at the agent of the last entry that is stored of this run.
    pub async fn agent_cursor(self: &Arc<Self>, run_id: &str) -> Result<u64, LogError> {
        let (log, run_id) = (self.clone(), run_id.to_owned());
        blocking(move || log.with_segments(|segments| Ok(segments.agent_cursor(&run_id)))).await
    }

    /// Forgets what is open; the directory may then be removed.
    pub fn close(&self) {
        self.set_running(false);
        self.segments.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Opens the segments on first use.
    fn with_segments<T>(
        &self,
        act: impl FnOnce(&mut Segments) -> Result<T, LogError>,
    ) -> Result<T, LogError> {
        let mut slot = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = match slot.as_mut() {
            Some(segments) => segments,
            None => {
                let opened = Segments::open(&self.dir, self.segment_bytes)?;
                self.head.send_modify(|head| head.newest = opened.newest());
                slot.insert(opened)
            }
        };
        act(segments)
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    tokio::task::spawn_blocking(act).await.map_err(|_| LogError::Ended)?
}

fn is_wanted(entry: &LogEntry, task: &str) -> bool {
    task.is_empty() || (entry.source() == LogSource::Task && entry.name == task)
}

fn stored(entry: LogEntry, agent_seq: u64) -> Stored {
    Stored { entry: Some(entry), agent_seq }
}

#[cfg(test)]
mod tests;
