//! What all kinds of resources have in common: identity, metadata and a spec.

use std::collections::BTreeMap;

use cordium_proto::v1::{Kind, Metadata, Resource};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{clock, error::ApiError, names::Target};

#[derive(Debug, Clone)]
pub struct Record {
    pub uid: String,
    pub kind: Kind,
    pub space: String,
    pub name: String,
    pub display_name: String,
    pub labels: BTreeMap<String, String>,
    pub spec: String,
    pub created_at: i64,
    pub updated_at: i64,
}

impl Record {
    pub fn to_resource(&self) -> Resource {
        Resource {
            kind: self.kind.into(),
            metadata: Some(Metadata {
                uid: self.uid.clone(),
                name: self.name.clone(),
                display_name: self.display_name.clone(),
                created_at: Some(clock::timestamp(self.created_at)),
                updated_at: Some(clock::timestamp(self.updated_at)),
                labels: self.labels.clone().into_iter().collect(),
            }),
            spec_json: self.spec.clone(),
            space: self.space.clone(),
            status: None,
            volume_status: None,
        }
    }
}

/// A kind's name as people write it.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Space => "space",
        Kind::Template => "template",
        Kind::Workspace => "workspace",
        Kind::Secret => "secret",
        Kind::Volume => "volume",
        Kind::Unset => "resource",
    }
}

pub const COLUMNS: &str =
    "r.uid, r.kind, r.space, r.name, r.display_name, r.labels, r.spec, r.created_at, r.updated_at";

pub fn from_row(row: &Row<'_>) -> rusqlite::Result<Record> {
    let labels: String = row.get(5)?;
    let labels = serde_json::from_str(&labels).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(e))
    })?;
    Ok(Record {
        uid: row.get(0)?,
        kind: Kind::try_from(row.get::<_, i32>(1)?).unwrap_or(Kind::Unset),
        space: row.get(2)?,
        name: row.get(3)?,
        display_name: row.get(4)?,
        labels,
        spec: row.get(6)?,
        created_at: row.get(7)?,
        updated_at: row.get(8)?,
    })
}

pub fn insert(conn: &Connection, record: &Record) -> Result<(), ApiError> {
    let done = conn
        .prepare_cached("INSERT INTO resources VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?
        .execute(params![
            record.uid,
            record.kind as i32,
            record.space,
            record.name,
            record.display_name,
            labels_json(record)?,
            record.spec,
            record.created_at,
            record.updated_at,
        ]);
    match done {
        Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
            let place =
                if record.space.is_empty() { String::new() } else { format!(" in space {:?}", record.space) };
            Err(ApiError::Exists(format!(
                "{} {:?} exists already{place}",
                kind_name(record.kind),
                record.name
            )))
        }
        other => Ok(other.map(|_| ())?),
    }
}

pub fn update(conn: &Connection, record: &Record) -> Result<(), ApiError> {
    conn.prepare_cached(
        "UPDATE resources SET display_name = ?2, labels = ?3, spec = ?4, updated_at = ?5 WHERE uid = ?1",
    )?
    .execute(params![
        record.uid,
        record.display_name,
        labels_json(record)?,
        record.spec,
        record.updated_at
    ])?;
    Ok(())
}

pub fn delete(conn: &Connection, uid: &str) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM resources WHERE uid = ?1")?.execute([uid])?;
    Ok(())
}

pub fn find(conn: &Connection, kind: Kind, target: &Target) -> Result<Option<Record>, ApiError> {
    let found = match target {
        Target::Uid(uid) => conn
            .prepare_cached(&format!("SELECT {COLUMNS} FROM resources r WHERE r.uid = ?1 AND r.kind = ?2"))?
            .query_row(params![uid, kind as i32], from_row)
            .optional()?,
        Target::Named { space, name } => conn
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM resources r WHERE r.kind = ?1 AND r.space = ?2 AND r.name = ?3"
            ))?
            .query_row(params![kind as i32, space, name], from_row)
            .optional()?,
    };
    Ok(found)
}

pub fn get(conn: &Connection, kind: Kind, target: &Target) -> Result<Record, ApiError> {
    find(conn, kind, target)?
        .ok_or_else(|| ApiError::NotFound(format!("there is no {} {target}", kind_name(kind))))
}

pub fn space(conn: &Connection, name: &str) -> Result<Record, ApiError> {
    get(conn, Kind::Space, &Target::Named { space: String::new(), name: name.to_owned() })
}

/// Every resource of a kind, oldest first; an empty space means all of them.
pub fn list(conn: &Connection, kind: Kind, space: &str) -> Result<Vec<Record>, ApiError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM resources r WHERE r.kind = ?1 AND (?2 = '' OR r.space = ?2) ORDER BY r.uid"
    ))?;
    let rows = statement.query_map(params![kind as i32, space], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn count(conn: &Connection, kind: Kind) -> Result<u64, ApiError> {
    let count: i64 = conn
        .prepare_cached("SELECT count(*) FROM resources WHERE kind = ?1")?
        .query_row([kind as i32], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

/// Of what lies in a space: kind and name of one thing that is not its `default` template.
pub fn any_content(conn: &Connection, space: &str) -> Result<Option<(Kind, String)>, ApiError> {
    let found = conn
        .prepare_cached(
            "SELECT kind, name FROM resources WHERE space = ?1 AND NOT (kind = ?2 AND name = ?3) LIMIT 1",
        )?
        .query_row(params![space, Kind::Template as i32, crate::names::DEFAULT], |row| {
            Ok((Kind::try_from(row.get::<_, i32>(0)?).unwrap_or(Kind::Unset), row.get(1)?))
        })
        .optional()?;
    Ok(found)
}

pub fn put_secret(conn: &Connection, uid: &str, sealed: &[u8]) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT OR REPLACE INTO secrets VALUES (?1, ?2)")?.execute(params![uid, sealed])?;
    Ok(())
}

pub fn sealed_secret(conn: &Connection, uid: &str) -> Result<Vec<u8>, ApiError> {
    Ok(conn.prepare_cached("SELECT data FROM secrets WHERE uid = ?1")?.query_row([uid], |row| row.get(0))?)
}

fn labels_json(record: &Record) -> Result<String, ApiError> {
    serde_json::to_string(&record.labels).map_err(|e| ApiError::Corrupt {
        what: "labels",
        of: record.name.clone(),
        why: e.to_string(),
    })
}
