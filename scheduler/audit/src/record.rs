//! A record and its line. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chain::{Hash, Head};

/// The longest line, its end included. Longer ones are not records.
pub(crate) const MAX_LINE: usize = 48 << 10;
const MAX_FIELD: usize = 256;
const MAX_DETAILS: usize = 16;
const MAX_DETAIL: usize = 1024;

/// What happened. Longer texts than a record holds are cut, which shows at their end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Who did it: `uid 1000`, `node n1`.
    pub actor: String,
    /// What was done: `workspace.start`.
    pub action: String,
    /// To what: `workspace dev`.
    pub object: String,
    /// The uid of that, where it has one.
    pub uid: String,
    pub detail: BTreeMap<String, String>,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 1 for the first; no number is left out.
    pub seq: u64,
    pub time: Timestamp,
    pub actor: String,
    pub action: String,
    pub object: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
    /// The hash of the record before.
    pub prev: Hash,
}

impl Record {
    pub(crate) fn new(entry: Entry, after: Head, time: Timestamp) -> Self {
        let details = entry.detail.into_iter().take(MAX_DETAILS);
        Self {
            seq: after.seq.saturating_add(1),
            time,
            actor: cut(entry.actor, MAX_FIELD),
            action: cut(entry.action, MAX_FIELD),
            object: cut(entry.object, MAX_FIELD),
            uid: cut(entry.uid, MAX_FIELD),
            detail: details.map(|(key, value)| (cut(key, 64), cut(value, MAX_DETAIL))).collect(),
            prev: after.hash,
        }
    }

    /// The line with its end, and its hash: of the record's JSON without the hash itself.
    pub(crate) fn line(&self) -> Result<(Vec<u8>, Hash), serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        let hash = Hash::of(&line);
        line.pop();
        line.extend_from_slice(format!(r#","hash":"{hash}"}}"#).as_bytes());
        line.push(b'\n');
        Ok((line, hash))
    }
}

/// A line of the log as found.
#[derive(Debug)]
pub(crate) struct Line {
    pub record: Record,
    /// What it says its hash is.
    pub stated: Hash,
    /// Whether it is.
    pub genuine: bool,
}

const MARK: &[u8] = br#","hash":""#;
/// The mark, the hash, a quotation mark and a brace.
const TAIL: usize = MARK.len() + 64 + 2;

impl Line {
    /// `line` without its end. None for what is no record.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let (body, tail) = line.split_at(line.len().checked_sub(TAIL)?);
        let stated = tail.strip_prefix(MARK)?.strip_suffix(br#""}"#)?;
        let stated: Hash = std::str::from_utf8(stated).ok()?.parse().ok()?;
        let body = [body, b"}"].concat();
        let record: Record = serde_json::from_slice(&body).ok()?;
        Some(Self { record, stated, genuine: Hash::of(&body) == stated })
    }

    pub(crate) fn head(&self) -> Head {
        Head { seq: self.record.seq, hash: self.stated }
    }
}

/// Control characters, of which JSON makes six bytes, give way to the sign for what cannot be shown.
fn cut(mut text: String, most: usize) -> String {
    let strange = |c: char| c.is_ascii_control() && !"\n\r\t".contains(c);
    if text.contains(strange) {
        text = text.replace(strange, "\u{fffd}");
    }
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let detail = [("run".to_owned(), "a \"b\"\nc".to_owned())].into();
        Entry {
            actor: "uid 1".into(),
            action: "x.y".into(),
            object: "workspace a".into(),
            detail,
            ..Entry::default()
        }
    }

    #[test]
    fn a_line_is_read_back() {
        let after = Head { seq: 4, hash: Hash::of(b"4") };
        let record = Record::new(entry(), after, Timestamp::UNIX_EPOCH);
        let (line, hash) = record.line().unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let parsed = Line::parse(line.strip_suffix(b"\n").unwrap()).unwrap();
        assert!(parsed.genuine);
        assert_eq!((parsed.head(), &parsed.record), (Head { seq: 5, hash }, &record));
    }

    #[test]
    fn any_other_byte_is_noticed() {
        let (line, _) = Record::new(entry(), Head::default(), Timestamp::UNIX_EPOCH).line().unwrap();
        let line = line.strip_suffix(b"\n").unwrap();
        for at in 0..line.len() {
            let mut other = line.to_vec();
            other[at] ^= 1;
            assert!(Line::parse(&other).is_none_or(|line| !line.genuine), "byte {at}");
        }
        assert!(Line::parse(b"").is_none() && Line::parse(&line[1..]).is_none());
    }

    #[test]
    fn a_record_is_bounded() {
        let entry = |text: String| {
            let detail = (0..100).map(|n| (format!("{n:02}{text}"), text.clone())).collect();
            Entry { actor: text.clone(), action: text.clone(), object: text.clone(), uid: text, detail }
        };
        for text in ["ü", "\u{1}", "\"", "\n"] {
            let record = Record::new(
                entry(text.repeat(4000)),
                Head { seq: u64::MAX, ..Head::default() },
                Timestamp::MAX,
            );
            assert!(record.actor.ends_with('…') && record.actor.len() <= MAX_FIELD);
            assert_eq!(record.detail.len(), MAX_DETAILS);
            assert!(record.line().unwrap().0.len() <= MAX_LINE, "{text:?}");
        }
    }
}
