//! How often something may happen.

use std::time::Instant;

pub(super) struct Bucket {
    burst: u32,
    per_second: u32,
    tokens: u32,
    refilled: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst, per_second, tokens: burst, refilled: now }
    }

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.refilled).as_micros();
        let more = passed * u128::from(self.per_second) / 1_000_000;
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(more).min(self.burst);
            self.refilled = now;
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or_default();
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 5, start);
        assert_eq!((0..100).filter(|_| bucket.take(start)).count(), 10);
        let second = |tenths: u32| start + Duration::from_millis(100) * tenths;
        assert_eq!((1..=100).filter(|tenths| bucket.take(second(*tenths))).count(), 50);
        assert_eq!((0..100).filter(|_| bucket.take(start + Duration::from_secs(3600))).count(), 10);
    }
}
