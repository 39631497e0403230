//! The node's records, in the order in which they came, until somebody takes them or newer ones push them out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::Record;

/// About 16 MiB at worst. A workspace that does its utmost adds some twenty a minute.
const KEPT: usize = 16_384;

pub(crate) struct Journal {
    epoch: u64,
    state: Mutex<State>,
    /// The newest number.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    kept: VecDeque<Arc<Record>>,
    number: u64,
    /// How much has happened in all records.
    happened: u64,
}

impl Default for Journal {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::new(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl Journal {
    fn new(epoch: u64) -> Self {
        Self { epoch, state: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Numbers a record and keeps it.
    pub(super) fn add(&self, record: Record) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.number += 1;
        let number = state.number;
        let before = state.happened;
        state.happened = before.saturating_add(record.count);
        state.kept.push_back(Arc::new(Record { epoch: self.epoch, number, before, ..record }));
        if state.kept.len() > KEPT {
            state.kept.pop_front();
        }
        drop(state);
        self.newest.send_replace(number);
    }

    /// At most `most` of those that come after number `after` of `epoch`, oldest first. Of another epoch nothing is known here:
    /// then all that is kept.
    pub(crate) fn after(&self, epoch: u64, after: u64, most: usize) -> Vec<Arc<Record>> {
        let after = if epoch == self.epoch { after } else { 0 };
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let start = state.kept.partition_point(|record| record.number <= after);
        state.kept.range(start..).take(most).cloned().collect()
    }

    /// Changes with each record.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Happened;
    use super::*;

    fn record(count: u64) -> Record {
        Record {
            epoch: 0,
            number: 0,
            before: 0,
            count,
            workspace: "w".into(),
            run: "r".into(),
            first_millis: 1,
            last_millis: 2,
            what: Happened::DenialsLeftOut,
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_was_and_sees_what_it_has_missed() {
        let journal = Journal::new(7);
        for _ in 0..KEPT + 10 {
            journal.add(record(3));
        }
        let all = journal.after(7, 0, usize::MAX);
        assert_eq!((all.len(), all[0].number, all[0].before, all[0].epoch), (KEPT, 11, 30, 7));
        let rest = journal.after(7, all[KEPT - 3].number, usize::MAX);
        assert_eq!(rest, all[KEPT - 2..]);
        assert_eq!(
            journal.after(7, 20, 5).iter().map(|r| r.number).collect::<Vec<_>>(),
            [21, 22, 23, 24, 25]
        );
        assert_eq!(journal.after(6, u64::MAX, 1)[0].number, 11);
        assert!(all.windows(2).all(|pair| pair[1].before == pair[0].before + pair[0].count));
    }
}
