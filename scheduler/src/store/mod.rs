//! The desired state on disk: one SQLite file in WAL mode.
//!
//! Writes go through one connection, each as one durable transaction; what they appended to the journal is told
//! to watchers only after the commit. Reads have connections of their own and never wait for a writer.

pub mod audit;
pub mod egress;
pub mod egress_records;
pub mod journal;
pub mod left_behind;
mod migrations;
pub mod nodes;
pub mod records;
#[cfg(test)]
mod tests;
pub mod volumes;
pub mod workspaces;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::watch;

use crate::error::{ApiError, SchedulerError};

/// How long a start waits for a scheduler before it that is just ending.
const LOCK_WAIT: Duration = Duration::from_secs(3);

#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    lookup: Mutex<Connection>,
    revision: watch::Sender<u64>,
    _lock: Flock<std::fs::File>,
}

impl Store {
    /// Opens the store, making it and its directory when they are missing.
    pub async fn open(path: &Path) -> Result<Self, SchedulerError> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            make_private_dir(parent)?;
        }
        let lock = lock(path).await?;
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Self::open_locked(&path, lock)).await;
        opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn open_locked(path: &Path, lock: Flock<std::fs::File>) -> Result<Self, SchedulerError> {
        let fail = |source| SchedulerError::OpenStore { path: path.to_owned(), source };
        make_private(path)?;
        let mut writer = Connection::open(path).map_err(fail)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
        writer.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        configure(&writer).map_err(fail)?;
        migrations::run(&mut writer, path)?;
        let read_only = || -> rusqlite::Result<Connection> {
            let conn = Connection::open_with_flags(
                path,
                OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
            )?;
            configure(&conn)?;
            Ok(conn)
        };
        let (reader, lookup) = (read_only().map_err(fail)?, read_only().map_err(fail)?);
        let (revision, _) = watch::channel(journal::newest(&writer).map_err(fail)?);
        Ok(Self(Arc::new(Inner {
            writer: Mutex::new(writer),
            reader: Mutex::new(reader),
            lookup: Mutex::new(lookup),
            revision,
            _lock: lock,
        })))
    }

    /// Runs `work` in one transaction. With an error nothing of it remains.
    pub async fn write<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, ApiError> + Send + 'static,
    {
        let inner = self.0.clone();
        blocking(move || {
            let mut conn = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&tx)?;
            let newest = journal::newest(&tx)?;
            tx.commit()?;
            // Still under the writer's lock, so that revisions are told in order.
            inner.revision.send_if_modified(|told| std::mem::replace(told, newest) != newest);
            Ok(value)
        })
        .await
    }

    /// Runs `work` on one consistent view.
    pub async fn read<T, F>(&self, work: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, ApiError> + Send + 'static,
    {
        let inner = self.0.clone();
        blocking(move || {
            let mut conn = inner.reader.lock().unwrap_or_else(PoisonError::into_inner);
            let tx = conn.transaction()?;
            work(&tx)
        })
        .await
    }

    /// For a few rows by key only: runs on the caller's thread, as a hand-over would cost more than the query.
    pub fn lookup<T>(&self, work: impl FnOnce(&Connection) -> Result<T, ApiError>) -> Result<T, ApiError> {
        work(&self.0.lookup.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest revision of the journal, as it grows.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }
}

fn configure(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(ApiError::ShuttingDown),
    }
}

fn make_private_dir(path: &Path) -> Result<(), SchedulerError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| SchedulerError::MakeDirectory { path: path.to_owned(), source })
}

/// Specs hold values that are not for everybody; the store's other files get the mode of this one.
fn make_private(path: &Path) -> Result<(), SchedulerError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(SchedulerError::MakeStore { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Two schedulers on one store would both drive its nodes.
async fn lock(path: &Path) -> Result<Flock<std::fs::File>, SchedulerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let path = PathBuf::from(name);
    let fail = |source| SchedulerError::Lock { path: path.clone(), source };
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(fail)?;
    let deadline = tokio::time::Instant::now() + LOCK_WAIT;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK)) if tokio::time::Instant::now() < deadline => {
                file = back;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(SchedulerError::InUse { path }),
            Err((_, errno)) => return Err(fail(errno.into())),
        }
    }
}
