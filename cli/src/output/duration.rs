//! Times and durations as people read them.

use std::time::Duration;

use jiff::Timestamp;
use prost_types::Timestamp as Proto;

pub fn timestamp(at: &Proto) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: &Proto) -> String {
    timestamp(at).map(|t| format!("{t:.3}")).unwrap_or_default()
}

/// `12s`, `5m`, `3h`, `4d`: the age in one unit.
pub fn age(at: &Proto, now: Timestamp) -> String {
    let Some(then) = timestamp(at) else { return "?".to_owned() };
    let seconds = (now.as_second() - then.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Seconds with two decimals, the form that scripts may read.
pub fn seconds(duration: Duration) -> String {
    format!("{:.2}s", duration.as_secs_f64())
}

/// The time between two events as their node saw it, never negative.
pub fn between(from: &Proto, to: &Proto) -> Option<Duration> {
    let span = timestamp(to)?.duration_since(timestamp(from)?);
    Some(Duration::try_from(span).unwrap_or_default())
}

/// Bytes in binary units with one decimal.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn at(seconds: i64, nanos: i32) -> Proto {
        Proto { seconds, nanos }
    }

    #[test]
    fn times() {
        assert_eq!(rfc3339(&at(0, 1_500_000)), "1970-01-01T00:00:00.001Z");
        assert_eq!(rfc3339(&at(i64::MAX, 0)), "");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23s");
        assert_eq!(between(&at(1, 0), &at(2, 500_000_000)), Some(Duration::from_millis(1500)));
        assert_eq!(between(&at(2, 0), &at(1, 0)), Some(Duration::ZERO));
    }

    #[test]
    fn ages() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        for (ago, text) in [(5, "5s"), (300, "5m"), (10_000, "2h"), (500_000, "5d"), (-9, "0s")] {
            assert_eq!(age(&at(1_000_000 - ago, 0), now), text);
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }
}
