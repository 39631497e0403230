//! How far each node's phase stream has been applied. Written with the statuses that it caused.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::ApiError;

/// The last revision applied and when the node was last heard (microseconds since the epoch).
pub fn cursor(conn: &Connection, node: &str) -> Result<(u64, i64), ApiError> {
    let found = conn
        .prepare_cached("SELECT cursor, last_seen FROM nodes WHERE name = ?1")?
        .query_row([node], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub fn set_cursor(conn: &Connection, node: &str, cursor: u64, last_seen: i64) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT OR REPLACE INTO nodes VALUES (?1, ?2, ?3)")?.execute(params![
        node,
        i64::try_from(cursor).unwrap_or(i64::MAX),
        last_seen
    ])?;
    Ok(())
}
