//! How far each node's records of egress are in the audit log.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::error::ApiError;

/// Where a node's broker was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    pub epoch: u64,
    pub number: u64,
    pub happened: u64,
}

pub fn place(conn: &Connection, node: &str) -> Result<Place, ApiError> {
    let found = conn
        .prepare_cached("SELECT epoch, number, happened FROM egress_records WHERE node = ?1")?
        .query_row([node], |row| {
            let at = |index| row.get::<_, i64>(index).map(i64::cast_unsigned);
            Ok(Place { epoch: at(0)?, number: at(1)?, happened: at(2)? })
        })
        .optional()?;
    Ok(found.unwrap_or_default())
}

pub fn set(conn: &Connection, node: &str, place: Place) -> Result<(), ApiError> {
    let Place { epoch, number, happened } = place;
    conn.prepare_cached("INSERT OR REPLACE INTO egress_records VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![node, epoch.cast_signed(), number.cast_signed(), happened.cast_signed()])?;
    Ok(())
}
