//! Volumes: a record, the node that holds the data, and which runs mount it.

use cordium_proto::v1::{Kind, Resource, VolumeStatus, WorkspaceState, volume_status::State};
use cordium_spec::VolumeSpec;
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::{
    clock,
    error::ApiError,
    names::Target,
    store::records::{self, Record},
};

/// No ordinary user can have the kernel enforce it.
const NO_LIMIT: &str = "the size is not enforced: the node keeps volumes as directories";

#[derive(Debug, Clone)]
pub struct Volume {
    pub record: Record,
    pub spec: VolumeSpec,
    /// Empty until a workspace that mounts it is placed.
    pub node: String,
    ready_at: i64,
}

/// A workspace whose run mounts a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub uid: String,
    pub name: String,
}

pub fn insert(conn: &Connection, record: &Record, node: &str) -> Result<(), ApiError> {
    records::insert(conn, record)?;
    conn.prepare_cached("INSERT INTO volumes (uid, node) VALUES (?1, ?2)")?
        .execute(params![record.uid, node])?;
    Ok(())
}

pub fn find(conn: &Connection, target: &Target) -> Result<Option<Volume>, ApiError> {
    records::find(conn, Kind::Volume, target)?.map(|record| of_record(conn, record)).transpose()
}

pub fn get(conn: &Connection, target: &Target) -> Result<Volume, ApiError> {
    of_record(conn, records::get(conn, Kind::Volume, target)?)
}

pub fn list(conn: &Connection, space: &str) -> Result<Vec<Volume>, ApiError> {
    records::list(conn, Kind::Volume, space)?.into_iter().map(|record| of_record(conn, record)).collect()
}

pub fn of_record(conn: &Connection, record: Record) -> Result<Volume, ApiError> {
    let (node, ready_at) = conn
        .prepare_cached("SELECT node, ready_at FROM volumes WHERE uid = ?1")?
        .query_row([&record.uid], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or_default();
    Ok(Volume { spec: cordium_spec::parse_volume_json(&record.spec)?, record, node, ready_at })
}

impl Volume {
    pub fn to_resource(&self, conn: &Connection) -> Result<Resource, ApiError> {
        let ready = self.ready_at != 0;
        let status = VolumeStatus {
            state: if ready { State::Ready } else { State::Pending }.into(),
            node: self.node.clone(),
            capacity_mib: self.spec.size.megabytes,
            ready_at: ready.then(|| clock::timestamp(self.ready_at)),
            mounted_by: holders(conn, &self.record.uid)?.into_iter().map(|holder| holder.name).collect(),
            warnings: vec![NO_LIMIT.to_owned()],
        };
        Ok(Resource { volume_status: Some(status), ..self.record.to_resource() })
    }
}

/// The workspaces with a run that mounts it, oldest first.
pub fn holders(conn: &Connection, volume: &str) -> Result<Vec<Holder>, ApiError> {
    let mut statement = conn.prepare_cached(
        "SELECT r.uid, r.name FROM mounts m JOIN workspaces w ON w.uid = m.workspace
         JOIN resources r ON r.uid = w.uid WHERE m.volume = ?1 AND w.state <> ?2 ORDER BY r.uid",
    )?;
    let rows = statement.query_map(params![volume, WorkspaceState::Stopped as i32], |row| {
        Ok(Holder { uid: row.get(0)?, name: row.get(1)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What the run that begins mounts, instead of what the one before did. The volumes lie on its node from now on.
pub fn mount(conn: &Connection, workspace: &str, node: &str, volumes: &[Volume]) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM mounts WHERE workspace = ?1")?.execute([workspace])?;
    for volume in volumes {
        conn.prepare_cached("INSERT OR IGNORE INTO mounts VALUES (?1, ?2)")?
            .execute([workspace, &volume.record.uid])?;
        conn.prepare_cached("UPDATE volumes SET node = ?2 WHERE uid = ?1")?
            .execute([&volume.record.uid, node])?;
    }
    Ok(())
}

/// The run of this workspace has mounted its volumes.
pub fn mounted(conn: &Connection, workspace: &str, at: i64) -> Result<(), ApiError> {
    conn.prepare_cached(
        "UPDATE volumes SET ready_at = ?2
         WHERE ready_at = 0 AND uid IN (SELECT volume FROM mounts WHERE workspace = ?1)",
    )?
    .execute(params![workspace, at])?;
    Ok(())
}
