//! Finds out whether a log is as it was written. Reads only.

use std::{fmt, path::Path};

use crate::{
    chain::{Head, Kept},
    error::AuditError,
    files::{self, Part, Text},
    record::Line,
};

/// More are not told: a log of which everything was changed says so soon.
const MAX_FINDINGS: usize = 100;

/// What was done to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touch {
    /// A record is not the one that was written.
    Changed,
    /// Records are missing in the midst, or at the beginning.
    Removed,
    /// A record stands after one that is newer.
    Reordered,
    /// Records are missing at the end.
    Truncated,
    /// A line is not a record.
    Unreadable,
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Truncated => "truncated",
            Self::Unreadable => "unreadable",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub touch: Touch,
    /// Name of the file and number of the line; empty and 0 for what is not in the log at all.
    pub file: String,
    pub line: u64,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub files: u64,
    pub records: u64,
    /// The numbers of the first and the last record.
    pub first: u64,
    pub last: Head,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }
}

/// Goes through the log in `dir`, and compares it with what was kept, and with heads that somebody noted.
///
/// `kept` and `heads` must have been known before the call: a log that grows meanwhile is none the worse.
pub fn verify(dir: &Path, kept: Option<&Kept>, heads: &[Head]) -> Result<Report, AuditError> {
    let anchor = kept.map(|kept| kept.anchor);
    let mut points: Vec<Head> = kept.iter().flat_map(|kept| [kept.anchor, kept.head]).collect();
    points.extend(heads);
    points.retain(|point| point.seq > 0);
    let mut walk = Walk { report: Report::default(), at: None, anchor, points };
    for part in files::list(dir)? {
        walk.report.files += 1;
        walk.part(&part)?;
    }
    Ok(walk.end())
}

struct Walk {
    report: Report,
    /// The newest record so far.
    at: Option<Head>,
    anchor: Option<Head>,
    /// What must be in the log, or is before its beginning.
    points: Vec<Head>,
}

impl Walk {
    fn part(&mut self, part: &Part) -> Result<(), AuditError> {
        let (mut lines, name, mut number) = (part.lines()?, part.name(), 0);
        while let Some(text) = lines.next()? {
            number += 1;
            let line = match &text {
                Text::Whole(text) => Line::parse(text),
                // Being written, or never told to be.
                Text::Open(_) => continue,
                Text::TooLong => None,
            };
            match line {
                Some(line) => self.line(&line, &name, number),
                None => self.found(Touch::Unreadable, &name, number, "it is not a record".into()),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &Line, file: &str, number: u64) {
        let seq = line.record.seq;
        self.report.records += 1;
        if !line.genuine {
            self.found(Touch::Changed, file, number, format!("record {seq} is not what its hash is of"));
        }
        let before = match self.at {
            Some(at) => at,
            None => self.first(line),
        };
        let wanted = before.seq.saturating_add(1);
        if seq < wanted {
            let message = format!("record {seq} stands after record {}", before.seq);
            // It does not count: the chain goes on where it was.
            return self.found(Touch::Reordered, file, number, message);
        }
        if seq > wanted {
            let message = match seq - wanted {
                1 => format!("record {wanted} is missing"),
                _ => format!("records {wanted} to {} are missing", seq - 1),
            };
            self.found(Touch::Removed, file, number, message);
        } else if line.record.prev != before.hash {
            let message = format!("record {seq} does not follow the record {} that is there", before.seq);
            self.found(Touch::Changed, file, number, message);
        }
        self.at = Some(line.head());
        self.point(line.head(), file, number);
    }

    /// What the first record must follow: the anchor, or nothing. A log that reaches further back than the anchor was not
    /// pruned yet, and must come by it.
    fn first(&mut self, line: &Line) -> Head {
        let seq = line.record.seq;
        self.report.first = seq;
        match self.anchor {
            Some(anchor) if seq > anchor.seq => anchor,
            None if seq == 1 => Head::default(),
            _ => Head { seq: seq.saturating_sub(1), hash: line.record.prev },
        }
    }

    fn point(&mut self, head: Head, file: &str, number: u64) {
        let other = self.points.iter().any(|point| point.seq == head.seq && point.hash != head.hash);
        self.points.retain(|point| point.seq != head.seq);
        if other {
            let message = format!("record {} is not the one whose hash was kept", head.seq);
            self.found(Touch::Changed, file, number, message);
        }
    }

    fn end(mut self) -> Report {
        self.report.last = self.at.or(self.anchor).unwrap_or_default();
        let last = self.report.last.seq;
        if let Some(newest) = self.points.iter().map(|point| point.seq).max().filter(|newest| *newest > last)
        {
            let message = format!("the log ends with record {last}; record {newest} was written");
            self.found(Touch::Truncated, "", 0, message);
        }
        self.report
    }

    fn found(&mut self, touch: Touch, file: &str, line: u64, message: String) {
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding { touch, file: file.to_owned(), line, message });
        }
    }
}
