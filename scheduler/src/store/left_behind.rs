//! What nodes are still to delete, because they did not answer, or because a workspace went elsewhere.

use rusqlite::{Connection, params};

use crate::error::ApiError;

/// How many deletions of one node are under way at a time.
const AT_ONCE: i64 = 16;

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    Workspace,
    Volume,
}

impl Left {
    fn table(self) -> &'static str {
        match self {
            Self::Workspace => "left_behind",
            Self::Volume => "volumes_left_behind",
        }
    }

    fn column(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Volume => "volume",
        }
    }

    pub fn put(self, conn: &Connection, node: &str, uid: &str) -> Result<(), ApiError> {
        conn.prepare_cached(&format!("INSERT OR IGNORE INTO {} VALUES (?1, ?2)", self.table()))?
            .execute(params![node, uid])?;
        Ok(())
    }

    pub fn remove(self, conn: &Connection, node: &str, uid: &str) -> Result<(), ApiError> {
        let sql = format!("DELETE FROM {} WHERE node = ?1 AND {} = ?2", self.table(), self.column());
        conn.prepare_cached(&sql)?.execute(params![node, uid])?;
        Ok(())
    }

    pub fn contains(self, conn: &Connection, node: &str, uid: &str) -> Result<bool, ApiError> {
        let sql = format!("SELECT 1 FROM {} WHERE node = ?1 AND {} = ?2", self.table(), self.column());
        Ok(conn.prepare_cached(&sql)?.exists(params![node, uid])?)
    }

    /// Some of what is to go from this node. In no order, so that those that fail do not hold up the rest.
    pub fn some(self, conn: &Connection, node: &str) -> Result<Vec<String>, ApiError> {
        let (table, column) = (self.table(), self.column());
        let sql = format!("SELECT {column} FROM {table} WHERE node = ?1 ORDER BY random() LIMIT ?2");
        let mut statement = conn.prepare_cached(&sql)?;
        let rows = statement.query_map(params![node, AT_ONCE], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
