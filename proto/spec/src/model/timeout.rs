//! A span of time as people write it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A time limit: `90s`, `5m`, `1h30m`, `500ms`. Units from large to small, each at most once; 1 ms to 24 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(Duration);

const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const MAX_MS: u64 = 24 * 3_600_000;
pub(crate) const ALLOWED: &str = "a time such as 90s, 5m or 1h30m, at most 24h";

impl Timeout {
    pub fn duration(self) -> Duration {
        self.0
    }

    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(MAX_MS)
    }
}

/// Not a time that [`Timeout`] accepts.
#[derive(Debug, thiserror::Error)]
#[error("not {ALLOWED}")]
pub struct TimeoutError;

impl FromStr for Timeout {
    type Err = TimeoutError;

    fn from_str(text: &str) -> Result<Self, TimeoutError> {
        let mut rest = text;
        let mut units = UNITS.iter();
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: u64 = rest[..digits].parse().map_err(|_| TimeoutError)?;
            rest = &rest[digits..];
            let unit = &rest[..rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len())];
            let (_, factor) = units.find(|(name, _)| *name == unit).ok_or(TimeoutError)?;
            rest = &rest[unit.len()..];
            let part = number.checked_mul(*factor).ok_or(TimeoutError)?;
            total = total.checked_add(part).ok_or(TimeoutError)?;
        }
        if (1..=MAX_MS).contains(&total) { Ok(Self(Duration::from_millis(total))) } else { Err(TimeoutError) }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.millis();
        for (name, factor) in UNITS {
            if rest >= factor {
                write!(f, "{}{name}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Timeout;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timeout, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl JsonSchema for Timeout {
    fn schema_name() -> Cow<'static, str> {
        "Timeout".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A time such as 90s, 5m or 1h30m, at most 24h.",
            "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
            "minLength": 2,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, millis, canonical) in [
            ("90s", 90_000, "1m30s"),
            ("5m", 300_000, "5m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("500ms", 500, "500ms"),
            ("24h", MAX_MS, "24h"),
            ("0h1s", 1000, "1s"),
        ] {
            let timeout: Timeout = text.parse().unwrap();
            assert_eq!((timeout.millis(), timeout.to_string().as_str()), (millis, canonical), "{text}");
            assert_eq!(canonical.parse::<Timeout>().unwrap(), timeout);
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "0s",
            "-1s",
            "1.5h",
            "5 m",
            "5m ",
            "1s1m",
            "1m1m",
            "25h",
            "24h1ms",
            "5M",
            "5min",
            "+5s",
            "99999999999999999999s",
            "18446744073709551615h",
            "५s",
        ] {
            assert!(text.parse::<Timeout>().is_err(), "{text}");
        }
    }
}
