//! The one writer of the database, with group commit.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use cordium_proto::v1::PhaseEvent;
use prost::Message as _;
use rusqlite::{Connection, Transaction, params};
use tokio::sync::oneshot;

use super::{Committed, Record, StoreError};
use crate::phases::Ring;

/// The most changes in one transaction.
const BATCH: usize = 256;
/// How many changes may wait. Owners of workspaces wait for their important ones, so few ever do.
const QUEUE: usize = 65_536;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What becomes of the workspace's record.
pub enum Change {
    /// A new run: its id must be new, and INIT_REQUEST's revision is remembered with it.
    BeginRun(Box<Record>),
    /// Any other transition.
    Update(Box<Record>),
    /// The workspace's storage is gone. The event is its last.
    Delete(Box<PhaseEvent>),
}

/// One transition to commit.
pub struct Commit {
    /// The record after the transition. Its event's revision is filled in by the writer.
    pub change: Change,
    /// Keep trying while the disk is full, because the transition has happened and cannot be taken back.
    pub persist: bool,
}

struct Queued {
    commit: Commit,
    done: oneshot::Sender<Result<Arc<PhaseEvent>, StoreError>>,
}

/// The writer's thread and the way to it.
pub struct Writer {
    queue: Mutex<Option<mpsc::SyncSender<Queued>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub fn start(connection: Connection, ring: Arc<Ring>, retained: u64) -> Result<Self, StoreError> {
        let newest = newest_revision(&connection).map_err(|e| StoreError::Read(Arc::new(e)))?;
        ring.begin_at(newest);
        let (queue, inbox) = mpsc::sync_channel(QUEUE);
        let mut thread = WriterThread { connection, ring, newest, retained, waiting: VecDeque::new() };
        let thread = std::thread::Builder::new()
            .name("node-db".to_owned())
            .spawn(move || thread.run(&inbox))
            .map_err(|_| StoreError::Closed)?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)) })
    }

    pub fn commit(&self, commit: Commit) -> Committed {
        let (done, committed) = oneshot::channel();
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let refused = match queue {
            Some(queue) => queue.try_send(Queued { commit, done }).err().map(|error| match error {
                mpsc::TrySendError::Full(queued) | mpsc::TrySendError::Disconnected(queued) => queued.done,
            }),
            None => Some(done),
        };
        if let Some(done) = refused {
            // The receiver may have gone; there is nobody left to tell then.
            let _ = done.send(Err(StoreError::Closed));
        }
        committed
    }

    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the writer of the node's database has panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

struct WriterThread {
    connection: Connection,
    ring: Arc<Ring>,
    newest: u64,
    retained: u64,
    waiting: VecDeque<Queued>,
}

impl WriterThread {
    fn run(&mut self, inbox: &mpsc::Receiver<Queued>) {
        let mut retry = FIRST_RETRY;
        let mut open = true;
        loop {
            if self.waiting.is_empty() {
                match inbox.recv() {
                    Ok(queued) => self.waiting.push_back(queued),
                    Err(mpsc::RecvError) => return,
                }
            }
            while self.waiting.len() < BATCH {
                match inbox.try_recv() {
                    Ok(queued) => self.waiting.push_back(queued),
                    Err(mpsc::TryRecvError::Empty) => break,
                    Err(mpsc::TryRecvError::Disconnected) => {
                        open = false;
                        break;
                    }
                }
            }
            match self.commit_batch() {
                Ok(()) => retry = FIRST_RETRY,
                Err(error) => {
                    let error = Arc::new(error);
                    let kept = self.refuse(&error, open);
                    if kept > 0 {
                        tracing::error!(%error, kept, "writing to the node's database; trying again");
                        match inbox.recv_timeout(retry) {
                            Ok(queued) => self.waiting.push_back(queued),
                            Err(mpsc::RecvTimeoutError::Timeout) => {}
                            // Once more, and then they are given up: the process is ending.
                            Err(mpsc::RecvTimeoutError::Disconnected) => open = false,
                        }
                        retry = (retry * 2).min(LAST_RETRY);
                    }
                }
            }
        }
    }

    /// Commits the oldest of what waits in one transaction, then tells everyone.
    fn commit_batch(&mut self) -> rusqlite::Result<()> {
        let batch = self.waiting.len().min(BATCH);
        let mut events = Vec::with_capacity(batch);
        let transaction = self.connection.transaction()?;
        for (queued, revision) in self.waiting.iter().take(batch).zip(self.newest + 1..) {
            events.push(Arc::new(apply(&transaction, &queued.commit.change, revision)?));
        }
        let newest = self.newest + batch as u64;
        if newest / 1024 != self.newest / 1024 {
            prune(&transaction, newest.saturating_sub(self.retained))?;
        }
        transaction.commit()?;
        self.newest = newest;
        self.ring.publish(&events);
        for (queued, event) in self.waiting.drain(..batch).zip(events) {
            // Not everyone waits for the answer.
            let _ = queued.done.send(Ok(event));
        }
        Ok(())
    }

    /// After a failed commit: answers those that may fail, and says how many stay to be tried again.
    fn refuse(&mut self, error: &Arc<rusqlite::Error>, open: bool) -> usize {
        for queued in std::mem::take(&mut self.waiting) {
            if queued.commit.persist && open {
                self.waiting.push_back(queued);
            } else {
                let _ = queued.done.send(Err(StoreError::Write(error.clone())));
            }
        }
        self.waiting.len()
    }
}

fn newest_revision(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .query_row("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'journal'", [], |row| {
            row.get::<_, i64>(0)
        })
        .map(|newest| newest as u64)
}

fn apply(transaction: &Transaction<'_>, change: &Change, revision: u64) -> rusqlite::Result<PhaseEvent> {
    let (mut event, record) = match change {
        Change::BeginRun(record) | Change::Update(record) => (record.latest.clone(), Some(record)),
        Change::Delete(event) => (event.as_ref().clone(), None),
    };
    event.revision = revision;
    let bytes = event.encode_to_vec();
    let row = revision as i64;
    transaction
        .prepare_cached("INSERT INTO journal (revision, workspace_uid, event) VALUES (?1, ?2, ?3)")?
        .execute(params![row, event.workspace_uid, bytes])?;
    let begins = matches!(change, Change::BeginRun(_));
    if begins {
        transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO runs (run_id, workspace_uid, revision) VALUES (?1, ?2, ?3)",
            )?
            .execute(params![event.run_id, event.workspace_uid, row])?;
    }
    match record {
        Some(record) => {
            let run_revision = if begins { revision } else { record.run_revision };
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO workspaces (uid, name, space, run_id, run_revision, spec_json, state,
                        fresh, image_ref, image_digest, event) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
                )?
                .execute(params![
                    event.workspace_uid,
                    event.workspace_name,
                    record.space,
                    event.run_id,
                    run_revision as i64,
                    record.spec_json,
                    event.state,
                    record.fresh,
                    record.image_ref,
                    record.image_digest,
                    bytes
                ])?;
        }
        None => {
            transaction
                .prepare_cached("DELETE FROM workspaces WHERE uid = ?1")?
                .execute([&event.workspace_uid])?;
            transaction
                .prepare_cached("DELETE FROM runs WHERE workspace_uid = ?1")?
                .execute([&event.workspace_uid])?;
        }
    }
    Ok(event)
}

fn prune(transaction: &Transaction<'_>, through: u64) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM journal WHERE revision <= ?1", [through as i64])?;
    transaction.execute("DELETE FROM runs WHERE revision <= ?1", [through as i64])?;
    Ok(())
}
