//! The newest denials of each workspace.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tracing::warn;

use super::{Denial, What, Why};
use crate::limiter::Limiter;

/// Denials kept of one workspace.
const KEPT: usize = 1000;

/// One workspace's.
pub(crate) struct Ring {
    workspace: String,
    kept: Mutex<VecDeque<Arc<Denial>>>,
    /// The newest number.
    newest: watch::Sender<u64>,
    log: Limiter,
}

impl Ring {
    pub(crate) fn new(workspace: String) -> Self {
        Self { workspace, kept: Mutex::default(), newest: watch::Sender::new(0), log: Limiter::new() }
    }

    /// Keeps a denial, and logs it unless there are too many.
    pub(crate) fn add(&self, what: &What<'_>, why: Why) -> Arc<Denial> {
        let denial = Denial::new(&self.workspace, what, why);
        if let Some(suppressed) = self.log.admit() {
            let Denial { workspace, names, rule, reason, .. } = &denial;
            let destination = what.destination.map_or_else(|| "none".to_owned(), |at| at.to_string());
            let protocol = denial.protocol;
            warn!(workspace, ?names, destination, ?protocol, rule, reason, suppressed, "egress denied");
        }
        self.keep(denial, SystemTime::now())
    }

    fn keep(&self, mut denial: Denial, now: SystemTime) -> Arc<Denial> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        denial.time_millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A broker that starts anew goes on with higher numbers.
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        denial.number = micros.max(kept.back().map_or(0, |last| last.number) + 1);
        let denial = Arc::new(denial);
        kept.push_back(Arc::clone(&denial));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.newest.send_replace(denial.number);
        denial
    }

    /// Those with a higher number than `after`, the oldest first.
    pub(crate) fn after(&self, after: u64) -> Vec<Arc<Denial>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.partition_point(|denial| denial.number <= after);
        kept.range(start..).cloned().collect()
    }

    /// Changes with each denial.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// The rings of the workspaces that are registered.
#[derive(Default)]
pub(crate) struct Rings(Mutex<HashMap<String, Arc<Ring>>>);

impl Rings {
    pub(crate) fn open(&self, workspace: &str) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(workspace.to_owned()));
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.insert(workspace.to_owned(), Arc::clone(&ring));
        ring
    }

    pub(crate) fn find(&self, workspace: &str) -> Option<Arc<Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(workspace).cloned()
    }

    /// Forgets this ring, but not one that a later registration has opened.
    pub(crate) fn close(&self, ring: &Arc<Ring>) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rings.get(&ring.workspace).is_some_and(|found| Arc::ptr_eq(found, ring)) {
            rings.remove(&ring.workspace);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::super::Protocol;
    use super::*;

    fn denial(rule: &str) -> Denial {
        let what = What { names: &[], destination: None, protocol: Protocol::Tcp, request: None };
        Denial::new("w", &what, Why { rule: rule.to_owned(), reason: "because", next: "do" })
    }

    #[test]
    fn the_newest_are_kept_in_order_and_found_by_number() {
        let ring = Ring::new("w".into());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut seen = ring.newest();
        for number in 0..KEPT + 5 {
            // The clock stands still, then goes back.
            let at = if number > KEPT { now - Duration::from_secs(60) } else { now };
            ring.keep(denial(&number.to_string()), at);
        }
        let all = ring.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!((all[0].rule.as_str(), all[KEPT - 1].rule.as_str()), ("5", "1004"));
        assert!(all.is_sorted_by(|a, b| a.number < b.number));
        assert_eq!(all[0].time_millis, 1_000_000_000);
        assert_eq!(ring.after(all[KEPT - 3].number), all[KEPT - 2..]);
        assert!(ring.after(all[KEPT - 1].number).is_empty());
        assert!(seen.has_changed().unwrap() && *seen.borrow_and_update() == all[KEPT - 1].number);
    }

    #[test]
    fn a_later_registration_keeps_its_ring() {
        let rings = Rings::default();
        let (old, new) = (rings.open("w"), rings.open("w"));
        rings.close(&old);
        assert!(Arc::ptr_eq(&rings.find("w").unwrap(), &new));
        rings.close(&new);
        assert!(rings.find("w").is_none());
    }
}
