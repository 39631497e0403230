//! Opening the database, and its schema versions.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// `MIGRATIONS[n]` takes schema `n` to `n + 1`; `PRAGMA user_version` holds the version.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE workspaces (
        uid          TEXT PRIMARY KEY,
        name         TEXT NOT NULL,
        space        TEXT NOT NULL,
        run_id       TEXT NOT NULL,
        run_revision INTEGER NOT NULL,
        spec_json    TEXT NOT NULL,
        state        INTEGER NOT NULL,
        fresh        INTEGER NOT NULL,
        image_ref    TEXT NOT NULL,
        image_digest TEXT NOT NULL,
        event        BLOB NOT NULL
    ) STRICT;
    CREATE TABLE journal (
        revision      INTEGER PRIMARY KEY AUTOINCREMENT,
        workspace_uid TEXT NOT NULL,
        event         BLOB NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        run_id        TEXT PRIMARY KEY,
        workspace_uid TEXT NOT NULL,
        revision      INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX runs_by_revision ON runs (revision);
"];

pub fn open_for_writing(path: &Path) -> Result<Connection, StoreError> {
    let open = |source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) };
    let mut connection = Connection::open(path).map_err(open)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 16777216;",
        )
        .map_err(open)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(open)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known });
    }
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(found.max(0) as usize) {
        let transaction = connection.transaction().map_err(open)?;
        transaction.execute_batch(migration).map_err(open)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1).map_err(open)?;
        transaction.commit().map_err(open)?;
    }
    Ok(connection)
}

pub fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    let open = |source| StoreError::Open { path: path.to_owned(), source: Arc::new(source) };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(open)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
    Ok(connection)
}
