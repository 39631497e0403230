//! Runs whose node is still to be told of a policy.

use rusqlite::{Connection, params};

use crate::error::ApiError;

/// How many of one node are told at a time.
const AT_ONCE: i64 = 64;

pub fn put(conn: &Connection, uid: &str, run_id: &str) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT OR REPLACE INTO egress_to_tell VALUES (?1, ?2)")?
        .execute(params![uid, run_id])?;
    Ok(())
}

pub fn remove(conn: &Connection, uid: &str) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM egress_to_tell WHERE workspace = ?1")?.execute([uid])?;
    Ok(())
}

/// Workspace and run. In no order, so that those that fail do not hold up the rest.
pub fn some(conn: &Connection, node: &str) -> Result<Vec<(String, String)>, ApiError> {
    let sql = "SELECT t.workspace, t.run_id FROM egress_to_tell t JOIN workspaces w ON w.uid = t.workspace
         WHERE w.node = ?1 ORDER BY random() LIMIT ?2";
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params![node, AT_ONCE], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
