//! The flows of one workspace.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::flow::{Flow, Key};

/// A flow that has been quiet for this long gives way to a new one, if there is no other room.
const QUIET: Duration = Duration::from_secs(10);

/// Dropped, it ends.
struct Open {
    flow: Arc<Flow>,
    serial: u64,
    task: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Table {
    open: HashMap<Key, Open>,
    limit: usize,
    serials: u64,
    /// No flow has been quiet for long enough before.
    full_until: Option<Instant>,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self { open: HashMap::new(), limit, serials: 0, full_until: None }
    }

    pub(super) fn find(&self, key: &Key) -> Option<&Arc<Flow>> {
        self.open.get(key).map(|open| &open.flow)
    }

    /// Whether one more flow may be opened; the one that has been quiet for longest makes room.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if self.open.len() < self.limit {
            return true;
        }
        if self.full_until.is_some_and(|until| now < until) {
            return false;
        }
        let quiet = self.open.values().map(|open| (open.flow.quiet(), open.flow.key));
        let Some((quiet, key)) = quiet.max_by_key(|(quiet, _)| *quiet) else { return false };
        if quiet < QUIET {
            self.full_until = Some(now + (QUIET - quiet));
            return false;
        }
        self.open.remove(&key);
        true
    }

    /// `start` begins the flow's task, which is to tell [`ended`](Self::ended) with the number that it is given.
    pub(super) fn insert(&mut self, flow: Arc<Flow>, start: impl FnOnce(Arc<Flow>, u64) -> AbortHandle) {
        self.serials += 1;
        let serial = self.serials;
        let task = start(Arc::clone(&flow), serial);
        self.open.insert(flow.key, Open { flow, serial, task });
    }

    pub(super) fn ended(&mut self, key: &Key, serial: u64) {
        if self.open.get(key).is_some_and(|open| open.serial == serial) {
            self.open.remove(key);
        }
    }

    /// Ends the flows for which `why` has a reason, and returns them with it.
    pub(super) fn end<W>(&mut self, mut why: impl FnMut(&Flow) -> Option<W>) -> Vec<(Arc<Flow>, W)> {
        let mut ended = Vec::new();
        self.open.retain(|_, open| match why(&open.flow) {
            Some(why) => {
                ended.push((Arc::clone(&open.flow), why));
                false
            }
            None => true,
        });
        if !ended.is_empty() {
            self.full_until = None;
        }
        ended
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;

    use cordium_egress::Moment;
    use tokio::sync::Semaphore;

    use super::*;

    fn key(port: u16) -> Key {
        Key { source: SocketAddr::from(([127, 0, 0, 1], port)), destination: "127.0.0.1:9".parse().unwrap() }
    }

    fn add(table: &mut Table, port: u16) {
        let share = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let flow = Flow::open(key(port), Arc::default(), Moment::at(0), share).unwrap();
        table.insert(Arc::new(flow), |flow, _| {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(flow)
            })
            .abort_handle()
        });
    }

    #[tokio::test]
    async fn flows_are_bounded_and_one_that_is_used_does_not_give_way() {
        let mut table = Table::new(2);
        for port in [1, 2] {
            assert!(table.has_room(Instant::now()));
            add(&mut table, port);
        }
        let now = Instant::now();
        assert!(!table.has_room(now) && table.full_until.is_some());
        assert!(!table.has_room(now + QUIET / 2), "not looked for again before");
        table.ended(&key(1), 7);
        assert!(table.find(&key(1)).is_some(), "of another flow with the same ends");
        table.ended(&key(1), 1);
        assert!(table.find(&key(1)).is_none() && table.has_room(now));
        add(&mut table, 3);
        let ended = table.end(|flow| (flow.key == key(2)).then_some("why"));
        assert_eq!((ended.len(), ended[0].0.key, ended[0].1), (1, key(2), "why"));
        assert!(table.find(&key(2)).is_none() && table.find(&key(3)).is_some() && table.has_room(now));
    }

    #[tokio::test]
    async fn the_task_of_a_flow_ends_with_it() {
        let mut table = Table::new(1);
        add(&mut table, 1);
        let flow = Arc::downgrade(table.find(&key(1)).unwrap());
        drop(table.end(|_| Some(())));
        while flow.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    }
}
