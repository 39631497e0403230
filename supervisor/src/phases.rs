//! The phase stream: every transition of every workspace, in order and without a gap, to any number of
//! watchers.
//!
//! A watcher is a cursor, not a queue. It reads batches after its cursor: from the ring of the newest events,
//! or from the journal when it has fallen behind the ring, or a snapshot when it has fallen behind the journal.
//! So a slow one costs no memory and never loses anything silently, and the writer never waits for it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use cordium_proto::v1::PhaseEvent;
use futures::Stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Page, Store, StoreError};

/// How many of the newest events stay in memory.
const RING: usize = 4096;
/// How many events a watcher takes at once.
const BATCH: usize = 256;

/// The newest events, and the newest revision for those who wait.
pub struct Ring {
    events: Mutex<VecDeque<Arc<PhaseEvent>>>,
    newest: watch::Sender<u64>,
}

impl Default for Ring {
    fn default() -> Self {
        Self { events: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Ring {
    /// Called once, with the revision that the journal ends with.
    pub(crate) fn begin_at(&self, newest: u64) {
        self.newest.send_replace(newest);
    }

    /// Takes events that have just been committed, with consecutive revisions.
    pub(crate) fn publish(&self, batch: &[Arc<PhaseEvent>]) {
        let Some(last) = batch.last() else { return };
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.extend(batch.iter().cloned());
        let surplus = events.len().saturating_sub(RING);
        events.drain(..surplus);
        drop(events);
        self.newest.send_replace(last.revision);
    }

    /// The newest committed revision.
    pub fn newest(&self) -> u64 {
        *self.newest.borrow()
    }

    /// The events right after `revision`, or nothing when the ring does not reach back that far.
    fn after(&self, revision: u64) -> Option<Vec<Arc<PhaseEvent>>> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let first = events.front()?.revision;
        let skip = usize::try_from((revision + 1).checked_sub(first)?).ok()?;
        Some(events.iter().skip(skip).take(BATCH).cloned().collect())
    }
}

/// Watches the phases from `after_revision` on; ends when `shutdown` is cancelled.
pub fn watch(
    store: Arc<Store>,
    ring: Arc<Ring>,
    after_revision: u64,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<PhaseEvent, StoreError>> + Send {
    let newest = ring.newest.subscribe();
    let watcher = Watcher {
        store,
        ring,
        newest,
        shutdown,
        cursor: after_revision,
        needs_snapshot: after_revision == 0,
        pending: VecDeque::new(),
        failed: false,
    };
    futures::stream::unfold(watcher, |mut watcher| async move {
        let next = watcher.next().await?;
        watcher.failed = next.is_err();
        Some((next, watcher))
    })
}

struct Watcher {
    store: Arc<Store>,
    ring: Arc<Ring>,
    newest: watch::Receiver<u64>,
    shutdown: CancellationToken,
    cursor: u64,
    needs_snapshot: bool,
    pending: VecDeque<PhaseEvent>,
    failed: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<PhaseEvent, StoreError>> {
        loop {
            if self.failed || self.shutdown.is_cancelled() {
                return None;
            }
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            let newest = *self.newest.borrow_and_update();
            if !self.needs_snapshot && self.cursor == newest {
                tokio::select! {
                    () = self.shutdown.cancelled() => return None,
                    changed = self.newest.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return None,
                    },
                }
            }
            if let Err(error) = self.fill().await {
                return Some(Err(error));
            }
        }
    }

    /// Reads the next batch into `pending`.
    async fn fill(&mut self) -> Result<(), StoreError> {
        if !self.needs_snapshot {
            if let Some(events) = self.ring.after(self.cursor).filter(|events| !events.is_empty()) {
                self.take(&events);
                return Ok(());
            }
            let (store, cursor) = (self.store.clone(), self.cursor);
            match blocking(move || store.reader().after(cursor, BATCH)).await? {
                Page::Events(events) => {
                    self.take(&events);
                    return Ok(());
                }
                Page::Gone => self.needs_snapshot = true,
            }
        }
        let store = self.store.clone();
        let snapshot = blocking(move || store.reader().snapshot()).await?;
        self.cursor = snapshot.revision;
        self.needs_snapshot = false;
        self.pending.extend(snapshot.events.into_iter().map(|event| PhaseEvent { snapshot: true, ..event }));
        Ok(())
    }

    fn take(&mut self, events: &[Arc<PhaseEvent>]) {
        if let Some(last) = events.last() {
            self.cursor = last.revision;
        }
        self.pending.extend(events.iter().map(|event| event.as_ref().clone()));
    }
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
}
