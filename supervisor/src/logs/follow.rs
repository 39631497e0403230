//! Reading a log: what is there, then what comes.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufReader, Seek as _, SeekFrom},
    sync::Arc,
};

use cordium_proto::v1::LogEntry;
use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Head, Log, LogError, blocking, frame, is_wanted, segments};

/// How many bytes of entries a reader takes at once.
const BATCH_BYTES: usize = 512 << 10;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Go on with what comes, until the run ends.
    pub follow: bool,
    /// Only entries after this one.
    pub after: u64,
    /// Only this task's; empty means all.
    pub task: String,
    /// Only the last n of what is there; 0 means all.
    pub tail: usize,
}

impl Log {
    /// Streams the entries that `query` asks for; ends early, without an error, when `shutdown` is cancelled.
    pub fn read(
        self: &Arc<Self>,
        query: Query,
        shutdown: CancellationToken,
    ) -> impl Stream<Item = Result<LogEntry, LogError>> + Send + use<> {
        let reader = Reader {
            head: self.head.subscribe(),
            log: self.clone(),
            shutdown,
            tail: query.tail,
            cursor: Some(Cursor { after: query.after, task: query.task.clone(), open: None }),
            query,
            pending: VecDeque::new(),
            done: false,
        };
        futures::stream::unfold(reader, |mut reader| async move {
            let next = reader.next().await?;
            reader.done |= next.is_err();
            Some((next, reader))
        })
    }
}

struct Reader {
    log: Arc<Log>,
    head: watch::Receiver<Head>,
    shutdown: CancellationToken,
    query: Query,
    tail: usize,
    cursor: Option<Cursor>,
    pending: VecDeque<LogEntry>,
    done: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<LogEntry, LogError>> {
        loop {
            if self.done || self.shutdown.is_cancelled() {
                return None;
            }
            if let Some(entry) = self.pending.pop_front() {
                return Some(Ok(entry));
            }
            let head = *self.head.borrow_and_update();
            match self.fill().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => return Some(Err(error)),
            }
            if !self.query.follow || !head.running {
                return None;
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                changed = self.head.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Reads the next batch into `pending`; false when there is nothing more now.
    async fn fill(&mut self) -> Result<bool, LogError> {
        let Some(mut cursor) = self.cursor.take() else { return Ok(false) };
        let (log, tail) = (self.log.clone(), std::mem::take(&mut self.tail));
        let (cursor, batch) = blocking(move || {
            // Makes sure that a damaged end has been cut off.
            log.with_segments(|_| Ok(()))?;
            if tail > 0 {
                cursor.skip_to_tail(&log, tail)?;
            }
            let batch = cursor.batch(&log)?;
            Ok((cursor, batch))
        })
        .await?;
        self.cursor = Some(cursor);
        let more = batch.is_some();
        self.pending.extend(batch.unwrap_or_default());
        Ok(more)
    }
}

/// A place in the segments.
struct Cursor {
    after: u64,
    task: String,
    /// The first entry and the file of the segment that is being read, and how far it has been.
    open: Option<(u64, File, u64)>,
}

impl Cursor {
    /// Moves to where the last `tail` wanted entries begin.
    fn skip_to_tail(&mut self, log: &Log, tail: usize) -> Result<(), LogError> {
        let mut scout = Cursor { after: self.after, task: self.task.clone(), open: None };
        let mut last = VecDeque::new();
        while let Some(batch) = scout.batch(log)? {
            for entry in batch {
                last.push_back(entry.seq);
                if last.len() > tail {
                    last.pop_front();
                }
            }
        }
        if let Some(first) = last.front() {
            self.after = first - 1;
        }
        Ok(())
    }

    /// The next wanted entries, perhaps none of a part that was read; nothing at the end.
    fn batch(&mut self, log: &Log) -> Result<Option<Vec<LogEntry>>, LogError> {
        if self.open.is_none() && !self.open_next(log)? {
            return Ok(None);
        }
        loop {
            // Listed before reading: if there is a newer segment, this one gets no more entries.
            let firsts = segments::list(&log.dir)?;
            let Some((first, file, position)) = self.open.as_mut() else { return Ok(None) };
            let fail = |source| LogError::File {
                doing: "reading",
                path: segments::path_of(&log.dir, *first),
                source,
            };
            file.seek(SeekFrom::Start(*position)).map_err(fail)?;
            let mut reader = BufReader::with_capacity(64 << 10, &*file);
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while bytes < BATCH_BYTES
                && let Some((stored, length)) = frame::read(&mut reader).map_err(fail)?
            {
                *position += length;
                bytes += length as usize;
                if let Some(entry) = stored.entry.filter(|entry| entry.seq > self.after) {
                    self.after = entry.seq;
                    if is_wanted(&entry, &self.task) {
                        batch.push(entry);
                    }
                }
            }
            if bytes > 0 {
                return Ok(Some(batch));
            }
            let at = *first;
            if !firsts.iter().any(|other| *other > at) || !self.open_next(log)? {
                return Ok(None);
            }
        }
    }

    /// Opens the segment after the open one, or the one that holds the entry after `after`.
    fn open_next(&mut self, log: &Log) -> Result<bool, LogError> {
        // A segment may be dropped between the listing and the opening: then the next one is tried.
        for _ in 0..8 {
            let firsts = segments::list(&log.dir)?;
            let next = match &self.open {
                Some((open, ..)) => firsts.iter().find(|first| *first > open),
                None => firsts.iter().rfind(|first| **first <= self.after + 1).or(firsts.first()),
            };
            let Some(first) = next.copied() else { return Ok(false) };
            let path = segments::path_of(&log.dir, first);
            match File::open(&path) {
                Ok(file) => {
                    self.open = Some((first, file, 0));
                    return Ok(true);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(LogError::File { doing: "opening", path, source }),
            }
        }
        Ok(false)
    }
}
