//! Workspaces: a record, where it runs, and its status with the runs before.

use cordium_proto::v1::{Kind, Limit, Resource, Run, WorkspaceState, WorkspaceStatus};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{
    error::ApiError,
    names::Target,
    placement,
    status::MAX_LAST_RUNS,
    store::{
        journal,
        records::{self, Record},
    },
};

/// Older runs are left out of an answer when they would take more than this.
const MAX_RUN_BYTES: usize = 2 << 20;

#[derive(Debug, Clone)]
pub struct Workspace {
    pub record: Record,
    pub template: String,
    /// Without its `last_runs`, which have rows of their own.
    pub status: WorkspaceStatus,
    pub run_spec: String,
    pub accepted: bool,
    /// The node that it was last on, or that it is on.
    pub last_node: String,
    /// Its newest entry in the journal.
    pub revision: u64,
}

impl Workspace {
    pub fn to_resource(&self) -> Resource {
        Resource { status: Some(self.status.clone()), ..self.record.to_resource() }
    }

    pub fn run_id(&self) -> &str {
        self.status.run.as_ref().map_or("", |run| &run.id)
    }
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Workspace> {
    let status: Vec<u8> = row.get(10)?;
    let status = WorkspaceStatus::decode(status.as_slice()).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(10, rusqlite::types::Type::Blob, Box::new(e))
    })?;
    Ok(Workspace {
        record: records::from_row(row)?,
        template: row.get(9)?,
        status,
        run_spec: row.get(11)?,
        accepted: row.get(12)?,
        revision: row.get::<_, i64>(13)?.unsigned_abs(),
        last_node: row.get(14)?,
    })
}

const SELECT: &str =
    "SELECT r.uid, r.kind, r.space, r.name, r.display_name, r.labels, r.spec, r.created_at, r.updated_at,
     w.template, w.status, w.run_spec, w.accepted, w.revision, w.last_node
     FROM resources r JOIN workspaces w ON w.uid = r.uid";

fn select(condition: &str) -> String {
    format!("{SELECT} WHERE {condition} ORDER BY r.uid")
}

pub fn insert(conn: &Connection, ws: &Workspace) -> Result<(), ApiError> {
    records::insert(conn, &ws.record)?;
    conn.prepare_cached(
        "INSERT INTO workspaces (uid, template, state, node, status) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        ws.record.uid,
        ws.template,
        ws.status.state,
        ws.status.node,
        ws.status.encode_to_vec()
    ])?;
    Ok(())
}

/// Writes the status and what goes with it. Runs that the bookkeeping has moved to `last_runs` get their rows.
pub fn save(conn: &Connection, ws: &mut Workspace) -> Result<(), ApiError> {
    let uid = &ws.record.uid;
    for run in std::mem::take(&mut ws.status.last_runs).iter().rev() {
        conn.prepare_cached("INSERT INTO runs (workspace, data) VALUES (?1, ?2)")?
            .execute(params![uid, run.encode_to_vec()])?;
        conn.prepare_cached(
            "DELETE FROM runs WHERE workspace = ?1 AND seq <= (
                 SELECT seq FROM runs WHERE workspace = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![uid, MAX_LAST_RUNS as i64])?;
    }
    conn.prepare_cached(
        "UPDATE workspaces SET state = ?2, node = ?3, status = ?4, run_spec = ?5, accepted = ?6,
         last_node = CASE ?3 WHEN '' THEN last_node ELSE ?3 END WHERE uid = ?1",
    )?
    .execute(params![
        uid,
        ws.status.state,
        ws.status.node,
        ws.status.encode_to_vec(),
        ws.run_spec,
        ws.accepted
    ])?;
    Ok(())
}

pub fn find(conn: &Connection, target: &Target) -> Result<Option<Workspace>, ApiError> {
    let found = match target {
        Target::Uid(uid) => {
            conn.prepare_cached(&select("r.uid = ?1"))?.query_row([uid], from_row).optional()?
        }
        Target::Named { space, name } => conn
            .prepare_cached(&select("r.kind = ?1 AND r.space = ?2 AND r.name = ?3"))?
            .query_row(params![Kind::Workspace as i32, space, name], from_row)
            .optional()?,
    };
    Ok(found)
}

pub fn get(conn: &Connection, target: &Target) -> Result<Workspace, ApiError> {
    find(conn, target)?.ok_or_else(|| ApiError::NotFound(format!("there is no workspace {target}")))
}

/// Oldest first; an empty space or template means all of them.
pub fn list(conn: &Connection, space: &str, template: &str) -> Result<Vec<Workspace>, ApiError> {
    let mut statement =
        conn.prepare_cached(&select("(?1 = '' OR r.space = ?1) AND (?2 = '' OR w.template = ?2)"))?;
    let rows = statement.query_map([space, template], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// For snapshots: those whose newest journal entry lies in `after..=upto`, in that order, at most `max`.
pub fn by_revision(
    conn: &Connection,
    (after, upto): (u64, u64),
    filter: &journal::Filter,
    max: usize,
) -> Result<Vec<Workspace>, ApiError> {
    let mut statement = conn.prepare_cached(&format!(
        "{SELECT} WHERE w.revision > ?1 AND w.revision <= ?2 AND (?3 = '' OR r.uid = ?3)
         AND (?4 = '' OR r.space = ?4) ORDER BY w.revision LIMIT ?5"
    ))?;
    let (after, upto) = (journal::signed(after), journal::signed(upto));
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![after, upto, filter.uid, filter.space, max], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The workspaces with a run on this node.
pub fn active_on(conn: &Connection, node: &str) -> Result<Vec<Workspace>, ApiError> {
    let mut statement = conn.prepare_cached(&select("w.node = ?1 AND w.state <> ?2"))?;
    let rows = statement.query_map(params![node, WorkspaceState::Stopped as i32], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub fn count_active(conn: &Connection) -> Result<u64, ApiError> {
    let count: i64 = conn
        .prepare_cached("SELECT count(*) FROM workspaces WHERE state <> ?1")?
        .query_row([WorkspaceState::Stopped as i32], |row| row.get(0))?;
    Ok(count.unsigned_abs())
}

pub fn count_by_state(conn: &Connection) -> Result<Vec<(WorkspaceState, u32)>, ApiError> {
    let mut statement = conn.prepare_cached("SELECT state, count(*) FROM workspaces GROUP BY state")?;
    let rows = statement.query_map([], |row| {
        Ok((WorkspaceState::try_from(row.get::<_, i32>(0)?).unwrap_or_default(), row.get(1)?))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What the runs on a node were promised together.
pub fn promised(conn: &Connection, node: &str) -> Result<Limit, ApiError> {
    let mut statement =
        conn.prepare_cached("SELECT status FROM workspaces WHERE node = ?1 AND state <> ?2")?;
    let mut rows = statement.query(params![node, WorkspaceState::Stopped as i32])?;
    let mut sum = Limit::default();
    while let Some(row) = rows.next()? {
        let bytes: Vec<u8> = row.get(0)?;
        let limit = WorkspaceStatus::decode(bytes.as_slice()).ok().and_then(|s| s.limit).unwrap_or_default();
        sum = placement::add(&sum, &limit);
    }
    Ok(sum)
}

/// Runs before the current one, newest first.
pub fn last_runs(conn: &Connection, uid: &str, max: usize) -> Result<Vec<Run>, ApiError> {
    let mut statement =
        conn.prepare_cached("SELECT data FROM runs WHERE workspace = ?1 ORDER BY seq DESC LIMIT ?2")?;
    let mut rows = statement.query(params![uid, i64::try_from(max).unwrap_or(i64::MAX)])?;
    let (mut runs, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let data: Vec<u8> = row.get(0)?;
        bytes += data.len();
        if bytes > MAX_RUN_BYTES {
            break;
        }
        runs.push(Run::decode(data.as_slice()).map_err(|e| ApiError::Corrupt {
            what: "run",
            of: uid.to_owned(),
            why: e.to_string(),
        })?);
    }
    Ok(runs)
}

/// The run that a start with this key has begun.
pub fn run_of_key(conn: &Connection, uid: &str, key: &str) -> Result<Option<String>, ApiError> {
    Ok(conn
        .prepare_cached("SELECT run_id FROM start_keys WHERE workspace = ?1 AND key = ?2")?
        .query_row([uid, key], |row| row.get(0))
        .optional()?)
}

/// Remembers a start's key; of each workspace the newest hundred are kept.
pub fn put_key(conn: &Connection, uid: &str, key: &str, run_id: &str, at: i64) -> Result<(), ApiError> {
    conn.prepare_cached("INSERT INTO start_keys VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![uid, key, run_id, at])?;
    conn.prepare_cached(
        "DELETE FROM start_keys WHERE workspace = ?1 AND rowid NOT IN (
             SELECT rowid FROM start_keys WHERE workspace = ?1 ORDER BY rowid DESC LIMIT 100)",
    )?
    .execute([uid])?;
    Ok(())
}

pub fn forget_key(conn: &Connection, uid: &str, run_id: &str) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM start_keys WHERE workspace = ?1 AND run_id = ?2")?
        .execute([uid, run_id])?;
    Ok(())
}
