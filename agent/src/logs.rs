//! The log of one run: a ring bounded in bytes, replayed to new readers and then followed.
//!
//! A reader holds a position, never a queue: one that is slow skips what the ring has dropped, sees it as a jump
//! in `seq`, and costs nothing meanwhile.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use cordium_proto::v1::{LogEntry, LogSource, LogStream, LogsRequest};
use futures::stream::{self, Stream};
use tokio::sync::watch;

const CAPACITY: usize = 4 << 20;
/// What an entry costs beside its data and name.
const OVERHEAD: usize = 192;
const BATCH: usize = 256 << 10;

#[derive(Default)]
struct Ring {
    entries: VecDeque<LogEntry>,
    bytes: usize,
    last_seq: u64,
    run_id: String,
}

impl Ring {
    fn push(&mut self, mut entry: LogEntry, capacity: usize) {
        self.last_seq += 1;
        entry.seq = self.last_seq;
        entry.run_id.clone_from(&self.run_id);
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
        while self.bytes > capacity && self.entries.len() > 1 {
            let dropped = self.entries.pop_front();
            self.bytes -= dropped.as_ref().map_or(0, cost);
        }
    }

    fn first_after(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq <= seq)
    }
}

fn cost(entry: &LogEntry) -> usize {
    entry.data.len() + entry.name.len() + entry.run_id.len() + OVERHEAD
}

pub struct Logs {
    ring: Mutex<Ring>,
    /// The last seq, and whether the run has ended.
    head: watch::Sender<(u64, bool)>,
}

/// Where an entry comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub source: LogSource,
    pub name: String,
}

impl Origin {
    pub fn new(source: LogSource, name: impl Into<String>) -> Self {
        Self { source, name: name.into() }
    }
}

impl Logs {
    pub fn new() -> Self {
        Self { ring: Mutex::default(), head: watch::Sender::new((0, false)) }
    }

    pub fn set_run(&self, run_id: &str) {
        run_id.clone_into(&mut self.ring().run_id);
    }

    pub fn push(&self, origin: &Origin, stream: LogStream, data: &[u8]) {
        let entry = LogEntry {
            at: Some(SystemTime::now().into()),
            source: origin.source.into(),
            name: origin.name.clone(),
            stream: stream.into(),
            data: Bytes::copy_from_slice(data),
            ..LogEntry::default()
        };
        let mut ring = self.ring();
        ring.push(entry, CAPACITY);
        let seq = ring.last_seq;
        drop(ring);
        self.head.send_modify(|head| head.0 = seq);
    }

    /// The number of the newest entry, 0 when there is none.
    pub fn last_seq(&self) -> u64 {
        self.ring().last_seq
    }

    /// A line of the agent's own.
    pub fn system(&self, text: &str) {
        tracing::info!("{text}");
        let origin = Origin::new(LogSource::System, "");
        self.push(&origin, LogStream::Stdout, format!("{text}\n").as_bytes());
    }

    /// Lets followers end once they have read everything.
    pub fn close(&self) {
        self.head.send_modify(|head| head.1 = true);
    }

    /// What `request` asks for, as a stream.
    pub fn read(self: &Arc<Self>, request: &LogsRequest) -> impl Stream<Item = LogEntry> + Send + use<> {
        let reader = Reader {
            cursor: self.start(request),
            logs: Arc::clone(self),
            head: self.head.subscribe(),
            task: request.task.clone(),
            follow: request.follow,
            pending: VecDeque::new(),
        };
        stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) })
    }

    fn start(&self, request: &LogsRequest) -> u64 {
        let ring = self.ring();
        let tail = usize::try_from(request.tail).unwrap_or(usize::MAX);
        if tail == 0 {
            return request.after_seq;
        }
        let wanted = ring.entries.iter().skip(ring.first_after(request.after_seq));
        let seqs: Vec<u64> = wanted.filter(|e| matches(e, &request.task)).map(|e| e.seq).collect();
        let skipped = seqs.len().saturating_sub(tail);
        seqs.get(skipped).map_or(ring.last_seq, |seq| seq - 1)
    }

    /// A bounded batch after `cursor`, and the cursor behind it.
    fn batch(&self, cursor: u64, task: &str) -> (VecDeque<LogEntry>, u64) {
        let ring = self.ring();
        let (mut found, mut bytes, mut cursor) = (VecDeque::new(), 0, cursor);
        for entry in ring.entries.iter().skip(ring.first_after(cursor)) {
            if bytes > BATCH {
                break;
            }
            cursor = entry.seq;
            if matches(entry, task) {
                bytes += cost(entry);
                found.push_back(entry.clone());
            }
        }
        (found, cursor)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn matches(entry: &LogEntry, task: &str) -> bool {
    task.is_empty() || (entry.source == i32::from(LogSource::Task) && entry.name == task)
}

struct Reader {
    logs: Arc<Logs>,
    head: watch::Receiver<(u64, bool)>,
    cursor: u64,
    task: String,
    follow: bool,
    pending: VecDeque<LogEntry>,
}

impl Reader {
    async fn next(&mut self) -> Option<LogEntry> {
        loop {
            if let Some(entry) = self.pending.pop_front() {
                return Some(entry);
            }
            let (last, closed) = *self.head.borrow_and_update();
            (self.pending, self.cursor) = self.logs.batch(self.cursor, &self.task);
            if !self.pending.is_empty() || self.cursor < last {
                continue;
            }
            if !self.follow || closed || self.head.changed().await.is_err() {
                return None;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    fn task(name: &str) -> Origin {
        Origin::new(LogSource::Task, name)
    }

    async fn data(logs: &Arc<Logs>, request: LogsRequest) -> Vec<String> {
        let entries = logs.read(&request).collect::<Vec<_>>().await;
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.data).into_owned()).collect()
    }

    #[test]
    fn the_ring_is_bounded_and_seq_jumps() {
        let mut ring = Ring::default();
        for _ in 0..1000 {
            ring.push(LogEntry { data: Bytes::from_static(&[0; 100]), ..LogEntry::default() }, 10_000);
        }
        assert!(ring.bytes <= 10_000);
        assert_eq!(ring.last_seq, 1000);
        assert!(ring.entries.front().unwrap().seq > 900);
        assert_eq!(ring.bytes, ring.entries.iter().map(cost).sum::<usize>());
    }

    #[tokio::test]
    async fn replay_filter_and_tail() {
        let logs = Arc::new(Logs::new());
        for (name, text) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4")] {
            logs.push(&task(name), LogStream::Stdout, text.as_bytes());
        }
        assert_eq!(data(&logs, LogsRequest::default()).await, ["1", "2", "3", "4"]);
        assert_eq!(data(&logs, LogsRequest { after_seq: 2, ..Default::default() }).await, ["3", "4"]);
        assert_eq!(
            data(&logs, LogsRequest { task: "a".into(), ..Default::default() }).await,
            ["1", "3", "4"]
        );
        let tail = LogsRequest { task: "a".into(), tail: 2, ..Default::default() };
        assert_eq!(data(&logs, tail).await, ["3", "4"]);
        assert_eq!(data(&logs, LogsRequest { tail: 100, ..Default::default() }).await.len(), 4);
        let none = LogsRequest { task: "zzz".into(), tail: 2, ..Default::default() };
        assert!(data(&logs, none).await.is_empty());
    }

    #[tokio::test]
    async fn a_follower_sees_what_comes_and_ends_with_the_run() {
        let logs = Arc::new(Logs::new());
        logs.system("first");
        let follower = tokio::spawn({
            let logs = Arc::clone(&logs);
            async move { data(&logs, LogsRequest { follow: true, ..Default::default() }).await }
        });
        tokio::task::yield_now().await;
        logs.system("second");
        tokio::task::yield_now().await;
        logs.close();
        assert_eq!(follower.await.unwrap(), ["first\n", "second\n"]);
    }
}
