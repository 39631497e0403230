//! Many of a kind become one: the first is told at once, those that follow once in an interval, with their count. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Things of one kind that follow each other become one record in so long a time.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

/// How much one workspace may tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Kinds that are told apart at a time.
    pub kinds: usize,
    /// Records at once, and after how long one more.
    pub burst: u32,
    pub refill: Duration,
}

/// What becomes of two of a kind.
pub(super) trait Merge {
    fn merge(&mut self, newer: Self);
}

/// A record to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told<T> {
    /// None stands for what could not be told apart.
    pub what: Option<T>,
    pub count: u64,
    pub first_millis: u64,
    pub last_millis: u64,
}

pub(super) struct Windows<K, T> {
    bounds: Bounds,
    open: HashMap<K, Window<T>>,
    left_out: Option<Window<()>>,
    tokens: u32,
    refilled: Instant,
}

struct Window<T> {
    opened: Instant,
    /// Not told yet.
    what: Option<T>,
    count: u64,
    first_millis: u64,
    last_millis: u64,
}

impl<T> Window<T> {
    fn new(now: Instant, millis: u64) -> Self {
        Self { opened: now, what: None, count: 0, first_millis: millis, last_millis: millis }
    }

    fn add(&mut self, millis: u64) {
        if self.count == 0 {
            self.first_millis = millis;
        }
        self.count += 1;
        self.last_millis = millis;
    }

    /// What it holds; it goes on empty.
    fn take(&mut self, now: Instant) -> Told<T> {
        let (first_millis, last_millis) = (self.first_millis, self.last_millis);
        self.opened = now;
        Told { what: self.what.take(), count: std::mem::take(&mut self.count), first_millis, last_millis }
    }
}

impl<K: Eq + Hash + Clone, T: Merge> Windows<K, T> {
    pub(super) fn new(bounds: Bounds, now: Instant) -> Self {
        Self { bounds, open: HashMap::new(), left_out: None, tokens: bounds.burst, refilled: now }
    }

    /// Takes one in. What is to be told at once comes back.
    pub(super) fn add(&mut self, key: K, what: T, now: Instant, millis: u64) -> Option<Told<T>> {
        if let Some(window) = self.open.get_mut(&key) {
            window.add(millis);
            match &mut window.what {
                Some(older) => older.merge(what),
                none => *none = Some(what),
            }
            return None;
        }
        if self.open.len() >= self.bounds.kinds {
            self.left_out.get_or_insert_with(|| Window::new(now, millis)).add(millis);
            return None;
        }
        let mut window = Window::new(now, millis);
        window.add(millis);
        window.what = Some(what);
        let told = self.token(now).then(|| window.take(now));
        self.open.insert(key, window);
        told
    }

    /// What is due, oldest first. Where too much was told already it waits, and is counted on.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Told<T>> {
        let is_due = |opened: Instant| now.saturating_duration_since(opened) >= INTERVAL;
        self.open.retain(|_, window| window.count > 0 || !is_due(window.opened));
        let mut due: Vec<(Instant, K)> = self
            .open
            .iter()
            .filter(|(_, window)| window.count > 0 && is_due(window.opened))
            .map(|(key, window)| (window.opened, key.clone()))
            .collect();
        due.sort_unstable_by_key(|(opened, _)| *opened);
        let mut told = Vec::new();
        for (_, key) in due {
            if !self.token(now) {
                break;
            }
            told.extend(self.open.get_mut(&key).map(|window| window.take(now)));
        }
        if self.left_out.as_ref().is_some_and(|window| is_due(window.opened)) {
            told.extend(self.take_left_out(now));
        }
        told
    }

    /// All that is left, when the workspace ends.
    pub(super) fn end(&mut self, now: Instant) -> Vec<Told<T>> {
        let mut rest: Vec<Window<T>> = self.open.drain().map(|(_, window)| window).collect();
        rest.retain(|window| window.count > 0);
        rest.sort_unstable_by_key(|window| window.opened);
        let mut told: Vec<_> = rest.into_iter().map(|mut window| window.take(now)).collect();
        told.extend(self.take_left_out(now));
        told
    }

    fn take_left_out(&mut self, now: Instant) -> Option<Told<T>> {
        let Told { count, first_millis, last_millis, .. } = self.left_out.take()?.take(now);
        Some(Told { what: None, count, first_millis, last_millis })
    }

    fn token(&mut self, now: Instant) -> bool {
        let refills =
            now.saturating_duration_since(self.refilled).as_nanos() / self.bounds.refill.as_nanos().max(1);
        if refills > 0 {
            let more = u32::try_from(refills).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(more).min(self.bounds.burst);
            self.refilled = now;
        }
        self.tokens.checked_sub(1).map(|left| self.tokens = left).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Merge for u32 {
        fn merge(&mut self, newer: Self) {
            *self = newer;
        }
    }

    const BOUNDS: Bounds = Bounds { kinds: 4, burst: 3, refill: Duration::from_secs(10) };

    fn told(what: Option<u32>, count: u64, first_millis: u64, last_millis: u64) -> Told<u32> {
        Told { what, count, first_millis, last_millis }
    }

    #[test]
    fn the_first_is_told_at_once_and_those_that_follow_once_in_an_interval() {
        let start = Instant::now();
        let mut windows = Windows::new(BOUNDS, start);
        assert_eq!(windows.add("a", 1, start, 100), Some(told(Some(1), 1, 100, 100)));
        for n in 0..1000 {
            assert_eq!(windows.add("a", n, start, 200 + u64::from(n)), None);
        }
        assert_eq!(windows.due(start + INTERVAL / 2), []);
        assert_eq!(windows.due(start + INTERVAL), [told(Some(999), 1000, 200, 1199)]);
        // It goes on, and is not told at once again.
        assert_eq!(windows.add("a", 5, start + INTERVAL, 2000), None);
        assert_eq!(windows.due(start + 2 * INTERVAL), [told(Some(5), 1, 2000, 2000)]);
        assert_eq!(windows.due(start + 3 * INTERVAL), []);
        assert!(windows.open.is_empty());
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let start = Instant::now();
        let mut windows = Windows::new(BOUNDS, start);
        let at_once = (0..100).filter_map(|n| windows.add(n, 0, start, u64::from(n as u32))).count();
        assert_eq!(at_once, 3);
        let due = windows.due(start + INTERVAL);
        // The fourth kind had to wait; the rest could not be told apart.
        assert_eq!(due, [told(Some(0), 1, 3, 3), told(None, 96, 4, 99)]);
    }

    #[test]
    fn nothing_is_lost_or_told_twice() {
        let start = Instant::now();
        let mut windows = Windows::new(BOUNDS, start);
        let (mut added, mut sum) = (0, 0);
        let mut records = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            for n in 0..50 {
                added += 1;
                sum += windows.add((n * second) % 7, 0, now, second).map_or(0, |told| told.count);
            }
            let due = windows.due(now);
            records += due.len();
            sum += due.iter().map(|told| told.count).sum::<u64>();
        }
        sum += windows.end(start + Duration::from_secs(600)).iter().map(|told| told.count).sum::<u64>();
        assert_eq!(sum, added);
        assert!(records <= 3 + 60 + 10, "{records}");
        assert_eq!(windows.end(start), []);
    }
}
