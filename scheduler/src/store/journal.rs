//! The merged stream of transitions: append-only, dense revisions, the oldest dropped.

use cordium_proto::v1::{Kind, PhaseEvent, Resource, Run, WorkspaceEvent, WorkspaceStatus};
use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::{
    error::ApiError,
    names::Target,
    store::{
        records::Record,
        workspaces::{self, Workspace},
    },
};

/// How many revisions are kept for watchers that come back.
pub const KEPT: u64 = 10_000;
/// Dropping is done in batches of this size.
const SLACK: u64 = 500;

/// Which workspaces a watcher wants; empty means all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub uid: String,
    pub space: String,
}

/// What a watcher gets for its revision.
pub enum Page {
    /// Events in order, and the revision up to which it has seen everything then.
    Events { events: Vec<WorkspaceEvent>, upto: u64 },
    /// Its revision is no longer there (or never was): it needs a snapshot.
    Gone,
}

pub fn newest(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'journal'")?
        .query_row([], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
}

pub fn append(
    conn: &Connection,
    ws: &Workspace,
    phase: Option<&PhaseEvent>,
    deleted: bool,
) -> Result<u64, ApiError> {
    conn.prepare_cached(
        "INSERT INTO journal (workspace, space, name, phase, status, deleted) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        ws.record.uid,
        ws.record.space,
        ws.record.name,
        phase.map(|p| p.encode_to_vec()),
        brief(&ws.status).encode_to_vec(),
        deleted,
    ])?;
    let revision = conn.last_insert_rowid().unsigned_abs();
    conn.prepare_cached("UPDATE workspaces SET revision = ?2 WHERE uid = ?1")?
        .execute(params![ws.record.uid, signed(revision)])?;
    if revision.is_multiple_of(SLACK) {
        drop_older(conn, revision.saturating_sub(KEPT))?;
    }
    Ok(revision)
}

pub fn drop_older(conn: &Connection, revision: u64) -> Result<(), ApiError> {
    conn.prepare_cached("DELETE FROM journal WHERE revision <= ?1")?.execute([signed(revision)])?;
    Ok(())
}

/// The warnings of the status that watchers have seen with an entry, if it is still there.
pub fn warnings(conn: &Connection, revision: u64) -> Result<Option<Vec<String>>, ApiError> {
    let status: Option<Vec<u8>> = conn
        .prepare_cached("SELECT status FROM journal WHERE revision = ?1")?
        .query_row([signed(revision)], |row| row.get(0))
        .optional()?;
    let status = status.and_then(|bytes| WorkspaceStatus::decode(bytes.as_slice()).ok());
    Ok(status.map(|status| status.warnings))
}

/// The next events after a revision, at most `max`.
pub fn page(conn: &Connection, after: u64, filter: &Filter, max: usize) -> Result<Page, ApiError> {
    let newest = newest(conn)?;
    let oldest: Option<i64> =
        conn.prepare_cached("SELECT min(revision) FROM journal")?.query_row([], |row| row.get(0))?;
    let first_kept = oldest.map_or(newest + 1, i64::unsigned_abs);
    if after > newest || after + 1 < first_kept {
        return Ok(Page::Gone);
    }
    let mut statement = conn.prepare_cached(
        "SELECT revision, workspace, space, name, phase, status, deleted FROM journal
         WHERE revision > ?1 AND (?2 = '' OR workspace = ?2) AND (?3 = '' OR space = ?3)
         ORDER BY revision LIMIT ?4",
    )?;
    let limit = i64::try_from(max).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![signed(after), filter.uid, filter.space, limit])?;
    let mut events = Vec::new();
    while let Some(row) = rows.next()? {
        events.push(event(conn, row)?);
    }
    let upto = match events.last() {
        Some(last) if events.len() == max => last.revision,
        _ => newest,
    };
    Ok(Page::Events { events, upto })
}

/// Without what is large and does not change during a run.
fn brief(status: &WorkspaceStatus) -> WorkspaceStatus {
    let run = status.run.as_ref().map(|run| Run { vars: Default::default(), ..run.clone() });
    WorkspaceStatus { last_runs: Vec::new(), run, ..status.clone() }
}

/// The status is that after the event; spec and labels are today's.
fn event(conn: &Connection, row: &Row<'_>) -> Result<WorkspaceEvent, ApiError> {
    let (uid, space, name): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let unreadable = |e: prost::DecodeError| ApiError::Corrupt {
        what: "journal entry",
        of: uid.clone(),
        why: e.to_string(),
    };
    let phase = match row.get::<_, Option<Vec<u8>>>(4)? {
        Some(bytes) => Some(PhaseEvent::decode(bytes.as_slice()).map_err(unreadable)?),
        None => None,
    };
    let mut status = WorkspaceStatus::decode(row.get::<_, Vec<u8>>(5)?.as_slice()).map_err(unreadable)?;
    let record = match workspaces::find(conn, &Target::Uid(uid.clone()))? {
        Some(today) => {
            if let (Some(run), Some(current)) = (&mut status.run, today.status.run)
                && run.id == current.id
            {
                run.vars = current.vars;
            }
            today.record
        }
        None => gone(uid, space, name),
    };
    let workspace = Resource { status: Some(status), ..record.to_resource() };
    Ok(WorkspaceEvent {
        revision: row.get::<_, i64>(0)?.unsigned_abs(),
        phase,
        workspace: Some(workspace),
        deleted: row.get(6)?,
    })
}

/// All that is known of a workspace that has been deleted.
fn gone(uid: String, space: String, name: String) -> Record {
    Record {
        uid,
        kind: Kind::Workspace,
        space,
        name,
        display_name: String::new(),
        labels: Default::default(),
        spec: String::new(),
        created_at: 0,
        updated_at: 0,
    }
}

pub fn signed(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}
