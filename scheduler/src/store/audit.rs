//! What is kept of the audit log.

use cordium_audit::{Head, Kept};
use rusqlite::{Connection, OptionalExtension as _, Row};

use crate::error::ApiError;

pub fn kept(conn: &Connection) -> Result<Kept, ApiError> {
    let head = |row: &Row<'_>, at: usize| -> rusqlite::Result<Head> {
        let seq: i64 = row.get(at)?;
        let hash: [u8; 32] = row.get(at + 1)?;
        Ok(Head { seq: seq.cast_unsigned(), hash: hash.into() })
    };
    let sql = "SELECT anchor_seq, anchor_hash, head_seq, head_hash FROM audit_kept";
    let found = conn.query_row(sql, [], |row| Ok(Kept { anchor: head(row, 0)?, head: head(row, 2)? }));
    Ok(found.optional()?.unwrap_or_default())
}

pub fn keep(conn: &Connection, kept: &Kept) -> Result<(), ApiError> {
    let sql = "INSERT OR REPLACE INTO audit_kept VALUES (1, ?1, ?2, ?3, ?4)";
    let Kept { anchor, head } = kept;
    let (anchor_seq, head_seq) = (anchor.seq.cast_signed(), head.seq.cast_signed());
    conn.execute(sql, (anchor_seq, anchor.hash.as_bytes(), head_seq, head.hash.as_bytes()))?;
    Ok(())
}
