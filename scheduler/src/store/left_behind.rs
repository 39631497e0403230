//! What nodes are still to delete, because they did not answer, or because a workspace went elsewhere.

use rusqlite::{Connection, params};

use crate::error::ApiError;

/// How many deletions of one node are under way at a time.
const AT_ONCE: i64 = 16;

pub fn put(conn: &Connection, node: &str, workspace: &str) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT OR IGNORE INTO left_behind VALUES (?1, ?2)")?
        .execute(params![node, workspace])?;
    Ok(())
}

pub fn remove(conn: &Connection, node: &str, workspace: &str) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM left_behind WHERE node = ?1 AND workspace = ?2")?
        .execute(params![node, workspace])?;
    Ok(())
}

pub fn contains(conn: &Connection, node: &str, workspace: &str) -> Result<bool, ApiError> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM left_behind WHERE node = ?1 AND workspace = ?2")?
        .exists(params![node, workspace])?)
}

/// Some of the workspaces that are to go from this node. In no order, so that those that fail do not hold up the rest.
pub fn some(conn: &Connection, node: &str) -> Result<Vec<String>, ApiError> {
    let mut statement =
        conn.prepare_cached("SELECT workspace FROM left_behind WHERE node = ?1 ORDER BY random() LIMIT ?2")?;
    let rows = statement.query_map(params![node, AT_ONCE], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
