//! Reads records back.

use std::path::Path;

use crate::{
    error::AuditError,
    files::{self, Text},
    record::{Line, Record},
};

/// At most `most` records after number `after`, oldest first. What is not a record is left out: [`crate::verify()`] tells of
/// that.
pub fn read(dir: &Path, after: u64, most: usize) -> Result<Vec<Record>, AuditError> {
    let parts = files::list(dir)?;
    // The last file that begins at or before the first wanted record.
    let begin = parts.partition_point(|part| part.first <= after.saturating_add(1)).saturating_sub(1);
    let mut records = Vec::new();
    for part in parts.iter().skip(begin) {
        let mut lines = match part.lines() {
            // Pruned since it was listed.
            Err(AuditError::Open { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            lines => lines?,
        };
        while let Some(text) = lines.next()? {
            let Text::Whole(text) = text else { continue };
            let Some(line) = Line::parse(&text).filter(|line| line.record.seq > after) else { continue };
            if records.len() >= most {
                return Ok(records);
            }
            records.push(line.record);
        }
    }
    Ok(records)
}
