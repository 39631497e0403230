//! Who uses what: counts by key, taken and given back by value.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys are image digests, and diff ids of layers that a running pull relies on.
#[derive(Default)]
pub(crate) struct LeaseTable {
    counts: Mutex<HashMap<String, usize>>,
}

impl LeaseTable {
    pub(crate) fn take(self: &Arc<Self>, key: &str) -> Lease {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(key.to_owned()).or_default() += 1;
        Lease { table: Arc::clone(self), key: key.to_owned() }
    }

    pub(crate) fn count(&self, key: &str) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or(0)
    }
}

/// While this lives, its key is in use.
pub(crate) struct Lease {
    table: Arc<LeaseTable>,
    key: String,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut counts = self.table.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_until_the_last_is_dropped() {
        let table = Arc::new(LeaseTable::default());
        let first = table.take("a");
        let second = table.take("a");
        assert_eq!(table.count("a"), 2);
        drop(first);
        assert_eq!(table.count("a"), 1);
        drop(second);
        assert_eq!(table.count("a"), 0);
        assert!(table.counts.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
    }
}
