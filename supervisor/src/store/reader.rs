//! Queries. Each blocks briefly: call them from `spawn_blocking`, or at start.

use std::sync::{Arc, Mutex, PoisonError};

use cordium_proto::v1::PhaseEvent;
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _};

use super::{Record, StoreError};

/// Every workspace's latest event as of one revision.
pub struct Snapshot {
    /// The newest revision of the journal.
    pub revision: u64,
    /// In the order of their revisions.
    pub events: Vec<PhaseEvent>,
}

/// A part of the journal.
pub enum Page {
    /// The events right after the revision that was asked for; empty when there are none yet.
    Events(Vec<Arc<PhaseEvent>>),
    /// The next event is no longer in the journal, or the revision was never given out.
    Gone,
}

/// The reading connection.
pub struct Reader {
    connection: Mutex<Connection>,
}

impl Reader {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection: Mutex::new(connection) }
    }

    fn read<T>(&self, query: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        query(&mut connection).map_err(|source| StoreError::Read(Arc::new(source)))
    }

    /// Every workspace.
    pub fn records(&self) -> Result<Vec<Record>, StoreError> {
        self.read(|connection| {
            let sql = format!("SELECT {} FROM workspaces ORDER BY uid", Record::COLUMNS);
            connection.prepare(&sql)?.query_map([], Record::from_row)?.collect()
        })
    }

    /// Every workspace's latest event, and the revision at which that holds.
    pub fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (revision, rows) = self.read(|connection| {
            let transaction = connection.transaction()?;
            let revision = newest(&transaction)?;
            let rows: Vec<Vec<u8>> = transaction
                .prepare_cached("SELECT event FROM workspaces")?
                .query_map([], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((revision, rows))
        })?;
        let mut events = decode_all(&rows)?;
        events.sort_by_key(|event| event.revision);
        Ok(Snapshot { revision, events })
    }

    /// At most `limit` events after `revision`.
    pub fn after(&self, revision: u64, limit: usize) -> Result<Page, StoreError> {
        let (oldest, newest, rows) = self.read(|connection| {
            let transaction = connection.transaction()?;
            let newest = newest(&transaction)?;
            let oldest: Option<i64> =
                transaction.query_row("SELECT MIN(revision) FROM journal", [], |row| row.get(0))?;
            let rows: Vec<Vec<u8>> = transaction
                .prepare_cached("SELECT event FROM journal WHERE revision > ?1 ORDER BY revision LIMIT ?2")?
                .query_map([revision as i64, limit as i64], |row| row.get(0))?
                .collect::<rusqlite::Result<_>>()?;
            Ok((oldest.map(|o| o as u64), newest, rows))
        })?;
        let first_kept = oldest.unwrap_or(newest + 1);
        if revision > newest || revision + 1 < first_kept {
            return Ok(Page::Gone);
        }
        Ok(Page::Events(decode_all(&rows)?.into_iter().map(Arc::new).collect()))
    }

    /// The workspace and INIT_REQUEST's revision of a run that was accepted before.
    pub fn run(&self, run_id: &str) -> Result<Option<(String, u64)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT workspace_uid, revision FROM runs WHERE run_id = ?1")?
                .query_row([run_id], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))
                .optional()
        })
    }
}

fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence WHERE name = 'journal'")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(|newest| newest as u64)
}

fn decode_all(rows: &[Vec<u8>]) -> Result<Vec<PhaseEvent>, StoreError> {
    rows.iter().map(|bytes| PhaseEvent::decode(bytes.as_slice()).map_err(StoreError::from)).collect()
}
