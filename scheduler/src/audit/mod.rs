//! The audit log: what is asked for is recorded before it is done, and a refusal after it.
//!
//! A record outlives this process at once. It reaches the disk a moment later, together with others, and then its hash is
//! kept in the store: see [`cordium_audit`].

pub mod actor;
pub mod entries;
mod service;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cordium_audit::{Entry, Head, Kept, Limits, Log};
use cordium_proto::v1::Kind;
use tokio::sync::watch;

use crate::{
    control::read,
    core::Core,
    error::{ApiError, SchedulerError},
    store::{self, Store, records},
};

/// Records of so long a time go to disk together.
const TOGETHER: Duration = Duration::from_millis(500);

pub struct Audit {
    dir: PathBuf,
    log: Mutex<Log>,
    /// The number of the newest record.
    newest: watch::Sender<u64>,
}

impl Audit {
    /// Opens the log beside the store.
    pub fn open(db: &Path, store: &Store) -> Result<Self, SchedulerError> {
        let dir = db.parent().unwrap_or(Path::new("")).join("audit");
        let kept = store.lookup(store::audit::kept).map_err(|e| SchedulerError::AuditKept(e.to_string()))?;
        let log = Log::open(&dir, &kept, Limits::default())?;
        let (newest, _) = watch::channel(log.head().seq);
        Ok(Self { dir, log: Mutex::new(log), newest })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What cannot be recorded must not be done. A disk that others keep busy can hold this up.
    pub fn append(&self, entry: Entry) -> Result<(), ApiError> {
        let head = self.log().append(entry)?;
        self.newest.send_replace(head.seq);
        Ok(())
    }

    /// As [`Self::append`], for what goes on all the same: it has happened, or it gives back what is used up.
    pub fn note(&self, entry: Entry) {
        let (action, object) = (entry.action.clone(), entry.object.clone());
        if let Err(error) = self.append(entry) {
            tracing::error!(%error, action, object, "not in the audit log");
        }
    }

    /// [`Self::append`], on a thread that may wait.
    pub async fn record(self: &Arc<Self>, entry: Entry) -> Result<(), ApiError> {
        let audit = self.clone();
        tokio::task::spawn_blocking(move || audit.append(entry)).await.map_err(|_| ApiError::ShuttingDown)?
    }

    /// Records what is asked for, does it, and records a refusal.
    pub async fn around<T>(
        self: &Arc<Self>,
        entry: Entry,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.record(entry.clone()).await?;
        self.refusal(entry, work.await).await
    }

    /// As [`Self::around`], for what must be possible when the disk is full.
    pub async fn around_what_frees<T>(
        self: &Arc<Self>,
        entry: Entry,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.noted(entry.clone()).await;
        self.refusal(entry, work.await).await
    }

    async fn refusal<T>(self: &Arc<Self>, entry: Entry, result: Result<T, ApiError>) -> Result<T, ApiError> {
        if let Err(error) = &result {
            self.noted(entries::refused(entry, &error.to_string())).await;
        }
        result
    }

    async fn noted(self: &Arc<Self>, entry: Entry) {
        let audit = self.clone();
        // It ends early only with the whole process.
        let _ = tokio::task::spawn_blocking(move || audit.note(entry)).await;
    }

    fn head(&self) -> Head {
        self.log().head()
    }
}

/// The entry, told of what the reference stands for, if there is such a thing.
pub fn about(core: &Core, kind: Kind, reference: &str, space: &str, entry: Entry) -> Entry {
    let found = read::target(kind, reference, space)
        .and_then(|target| core.store.lookup(|conn| records::find(conn, kind, &target)));
    match found {
        Ok(Some(record)) => {
            let object = entries::object(kind, &record.name, &record.space);
            Entry { object, uid: record.uid, ..entry }
        }
        _ => entry,
    }
}

/// Brings records to disk, keeps the newest one's hash, and bounds the log; once more when the scheduler ends.
pub async fn keep(core: Arc<Core>) {
    let mut newest = core.audit.newest.subscribe();
    newest.mark_changed();
    loop {
        let ends = tokio::select! {
            _ = newest.changed() => false,
            () = core.shutdown.cancelled() => true,
        };
        tokio::select! {
            () = tokio::time::sleep(TOGETHER), if !ends => {}
            () = core.shutdown.cancelled() => {}
        }
        newest.mark_unchanged();
        if let Err(error) = keep_now(&core).await {
            tracing::error!(%error, "the audit log's newest records are not safe yet");
        }
        if ends {
            return;
        }
    }
}

async fn keep_now(core: &Arc<Core>) -> Result<(), ApiError> {
    let kept = core.store.read(store::audit::kept).await?;
    if kept.head == core.audit.head() {
        return Ok(());
    }
    let inner = core.clone();
    let synced = tokio::task::spawn_blocking(move || -> Result<Kept, ApiError> {
        let syncing = inner.audit.log().begin_sync()?;
        Ok(syncing.sync()?)
    });
    let kept = synced.await.map_err(|_| ApiError::ShuttingDown)??;
    core.store.write(move |tx| store::audit::keep(tx, &kept)).await?;
    let inner = core.clone();
    let pruned = tokio::task::spawn_blocking(move || inner.audit.log().prune(&kept));
    Ok(pruned.await.map_err(|_| ApiError::ShuttingDown)??)
}
