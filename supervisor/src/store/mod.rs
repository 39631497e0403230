//! `node.db`: the records of the node's workspaces and the journal of their phases.
//!
//! One thread owns the writing connection. Transitions are queued to it, and those that queue up while a
//! commit is being synced to disk go into the next one together, so that a hundred workspaces that start at
//! once cost a few syncs, not hundreds. A transition reaches watchers only after its commit.

mod reader;
mod record;
mod schema;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cordium_proto::v1::PhaseEvent;
use tokio::sync::oneshot;

pub use reader::{Page, Reader, Snapshot};
pub use record::Record;
use writer::Writer;
pub use writer::{Change, Commit};

use crate::phases::Ring;

/// How many of the newest events the journal keeps.
pub const RETAINED_EVENTS: u64 = 100_000;

/// A failed step of reading or writing `node.db`.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or set up.
    #[error("opening the node's database {}: {source}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// A newer program has written the file.
    #[error("the node's database {} has schema {found}, but this program knows only up to {known}: use the newer program, or another --state-dir", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A commit failed, for example because the disk is full.
    #[error("writing to the node's database: {0}")]
    Write(Arc<rusqlite::Error>),
    /// A query failed.
    #[error("reading the node's database: {0}")]
    Read(Arc<rusqlite::Error>),
    /// A stored message cannot be decoded.
    #[error("the node's database holds an event that cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The writer has ended, as it does at shutdown.
    #[error("the node's database is closed")]
    Closed,
}

/// What a commit comes back with: the event with its revision.
pub type Committed = oneshot::Receiver<Result<Arc<PhaseEvent>, StoreError>>;

/// The node's database.
pub struct Store {
    writer: Writer,
    reader: Reader,
}

impl Store {
    /// Opens or creates the database; committed events go to `ring`.
    pub fn open(path: &Path, ring: Arc<Ring>) -> Result<Self, StoreError> {
        Self::open_retaining(path, ring, RETAINED_EVENTS)
    }

    /// As [`Store::open`], with another length of the journal.
    pub fn open_retaining(path: &Path, ring: Arc<Ring>, retained: u64) -> Result<Self, StoreError> {
        let connection = schema::open_for_writing(path)?;
        let writer = Writer::start(connection, ring, retained)?;
        let reader = Reader::new(schema::open_for_reading(path)?);
        Ok(Self { writer, reader })
    }

    /// Queues one change. Changes are committed in the order in which they are queued.
    pub fn commit(&self, commit: Commit) -> Committed {
        self.writer.commit(commit)
    }

    /// Queries, on their own connection.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Commits what is queued and ends the writer.
    pub fn close(&self) {
        self.writer.close();
    }
}

#[cfg(test)]
mod tests;
