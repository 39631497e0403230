//! Keeps a workspace from filling the log, which nobody cuts: a burst, then a few lines a minute (3 MB a day), with a count
//! of those left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const BURST: u32 = 50;
const EVERY: Duration = Duration::from_secs(10);

pub(crate) struct Limiter(Mutex<State>);

struct State {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Limiter {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { tokens: BURST, refilled: Instant::now(), suppressed: 0 }))
    }

    /// `Some` when a line may be written: how many were left out since the last.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let intervals = now.saturating_duration_since(state.refilled).as_millis() / EVERY.as_millis();
        if intervals > 0 {
            let more = u32::try_from(intervals).unwrap_or(u32::MAX);
            state.tokens = state.tokens.saturating_add(more).min(BURST);
            state.refilled = now;
        }
        if state.tokens == 0 {
            state.suppressed += 1;
            return None;
        }
        state.tokens -= 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_trickle_that_counts_what_is_missing() {
        let limiter = Limiter::new();
        let start = Instant::now();
        assert_eq!((0..200).filter(|_| limiter.admit_at(start).is_some()).count(), 50);
        assert_eq!(limiter.admit_at(start + EVERY * 3 / 2), Some(150));
        assert_eq!(limiter.admit_at(start + EVERY * 8 / 5), None);
    }

    #[test]
    fn a_day_of_denials_is_a_small_file() {
        let limiter = Limiter::new();
        let start = Instant::now();
        let lines = (0..24 * 3600).filter(|s| limiter.admit_at(start + Duration::from_secs(*s)).is_some());
        assert!(lines.count() < 10_000);
    }
}
