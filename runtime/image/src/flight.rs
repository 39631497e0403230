//! One piece of work for many waiters. The work runs in a task of its own, so that a waiter who goes away
//! does not take it along; when the last waiter goes, the work is aborted.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::progress::{ProgressHub, ProgressSink};

pub(crate) struct Flights<K, V> {
    running: Mutex<HashMap<K, Weak<Flight<V>>>>,
}

pub(crate) struct Flight<V> {
    result: watch::Receiver<Option<V>>,
    task: AbortHandle,
    hub: Arc<ProgressHub>,
}

impl<V> Drop for Flight<V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<V: Clone> Flight<V> {
    /// The result, or none if the work was lost (it panicked).
    pub(crate) async fn wait(&self) -> Option<V> {
        let mut result = self.result.clone();
        result.wait_for(Option::is_some).await.ok().and_then(|value| value.clone())
    }
}

impl<K: Eq + Hash, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub(crate) fn new() -> Self {
        Self { running: Mutex::new(HashMap::new()) }
    }

    /// Joins the running work for `key`, or starts it. Says whether it was started here.
    pub(crate) fn join<F>(
        &self,
        key: K,
        sink: ProgressSink,
        start: impl FnOnce(ProgressSink) -> F,
    ) -> (Arc<Flight<V>>, bool)
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(&key).and_then(Weak::upgrade)
            && flight.result.borrow().is_none()
            && flight.result.has_changed().is_ok()
        {
            flight.hub.add(sink);
            return (flight, false);
        }
        running.retain(|_, flight| flight.strong_count() > 0);
        let hub = Arc::new(ProgressHub::default());
        hub.add(sink);
        let (sender, result) = watch::channel(None);
        let work = start(hub.as_sink());
        let task = tokio::spawn(async move {
            let value = work.await;
            sender.send_replace(Some(value));
        })
        .abort_handle();
        let flight = Arc::new(Flight { result, task, hub });
        running.insert(key, Arc::downgrade(&flight));
        (flight, true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::progress::no_progress;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn waiters_share_one_run_and_survive_each_other() {
        let flights = Flights::<&str, usize>::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let start = |_| {
            let runs = Arc::clone(&runs);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                runs.fetch_add(1, Ordering::SeqCst) + 7
            }
        };
        let (first, started) = flights.join("k", no_progress(), start);
        assert!(started);
        let (second, started) = flights.join("k", no_progress(), start);
        assert!(!started);
        drop(first);
        assert_eq!(second.wait().await, Some(7));
        let (third, started) = flights.join("k", no_progress(), start);
        assert!(started, "a finished flight is not joined");
        assert_eq!(third.wait().await, Some(8));
    }

    #[tokio::test]
    async fn the_last_waiter_aborts_the_work() {
        let flights = Flights::<&str, ()>::new();
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let (flight, _) = flights.join("k", no_progress(), |_| async move {
            std::future::pending::<()>().await;
            drop(sender);
        });
        drop(flight);
        assert!(tokio::time::timeout(Duration::from_secs(5), receiver).await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_panic_is_told_not_hung() {
        let flights = Flights::<&str, ()>::new();
        let (flight, _) = flights.join("k", no_progress(), |_| async { panic!("on purpose") });
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), flight.wait()).await.unwrap(), None);
    }
}
