//! Points in time as the store keeps them (microseconds since the epoch) and as the protocol carries them.

use std::time::{SystemTime, UNIX_EPOCH};

use prost_types::{Duration, Timestamp};

pub fn now_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|d| i64::try_from(d.as_micros()).ok())
        .unwrap_or_default()
}

pub fn now() -> Timestamp {
    timestamp(now_micros())
}

pub fn timestamp(micros: i64) -> Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or_default();
    Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

pub fn micros(at: &Timestamp) -> i64 {
    at.seconds.saturating_mul(1_000_000).saturating_add(i64::from(at.nanos) / 1000)
}

/// The later of the two, so that a node whose clock lags does not turn time back.
pub fn later(a: Timestamp, b: Option<&Timestamp>) -> Timestamp {
    match b {
        Some(b) if (b.seconds, b.nanos) > (a.seconds, a.nanos) => *b,
        _ => a,
    }
}

/// `total + (to - from)`, never less than `total`.
pub fn add_span(total: Option<&Duration>, from: &Timestamp, to: &Timestamp) -> Duration {
    let before = total.map_or(0, |d| d.seconds.saturating_mul(1_000_000_000) + i64::from(d.nanos));
    let span = (to.seconds - from.seconds)
        .saturating_mul(1_000_000_000)
        .saturating_add(i64::from(to.nanos) - i64::from(from.nanos))
        .max(0);
    let sum = before.saturating_add(span);
    let nanos = i32::try_from(sum.rem_euclid(1_000_000_000)).unwrap_or_default();
    Duration { seconds: sum.div_euclid(1_000_000_000), nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_up_and_never_shrink() {
        let (a, b) =
            (Timestamp { seconds: 10, nanos: 900_000_000 }, Timestamp { seconds: 12, nanos: 100_000_000 });
        let one = add_span(None, &a, &b);
        assert_eq!((one.seconds, one.nanos), (1, 200_000_000));
        let two = add_span(Some(&one), &a, &b);
        assert_eq!((two.seconds, two.nanos), (2, 400_000_000));
        assert_eq!(add_span(Some(&one), &b, &a), one);
    }

    #[test]
    fn micros_and_back() {
        for value in [0, 1, 1_763_700_000_123_456, -5] {
            assert_eq!(micros(&timestamp(value)), value);
        }
    }
}
