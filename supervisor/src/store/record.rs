//! What the node knows of one workspace, as it lies in the database.

use cordium_proto::v1::{Failure, Limit, PhaseEvent, StoppingReason, WorkspaceState};
use prost::Message as _;
use rusqlite::Row;

/// One workspace. Everything that phases tell is in `latest`; the rest is the node's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The latest event of the workspace: state, run, failure, warnings and so on.
    pub latest: PhaseEvent,
    /// The space that it lies in.
    pub space: String,
    /// The revision of the current run's INIT_REQUEST.
    pub run_revision: u64,
    /// The resolved spec of the current run. It names secrets and holds none.
    pub spec_json: String,
    /// No run has got through ON_CREATE on this storage.
    pub fresh: bool,
    /// The image of the current run.
    pub image_ref: String,
    /// Its manifest's digest.
    pub image_digest: String,
}

impl Record {
    /// A workspace that the node hears of for the first time.
    pub fn new(uid: &str, node: &str) -> Self {
        Self {
            latest: PhaseEvent {
                node: node.to_owned(),
                workspace_uid: uid.to_owned(),
                state: WorkspaceState::Stopped.into(),
                ..PhaseEvent::default()
            },
            space: String::new(),
            run_revision: 0,
            spec_json: String::new(),
            fresh: true,
            image_ref: String::new(),
            image_digest: String::new(),
        }
    }

    /// The workspace's uid.
    pub fn uid(&self) -> &str {
        &self.latest.workspace_uid
    }

    /// The state that was committed or queued last.
    pub fn state(&self) -> WorkspaceState {
        self.latest.state()
    }

    /// The limits that the current run was promised.
    pub fn limit(&self) -> Option<Limit> {
        self.latest.limit
    }

    /// Why the current or last run failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.latest.failure.as_ref()
    }

    /// Why the current or last run was stopped.
    pub fn reason(&self) -> StoppingReason {
        self.latest.stopping_reason()
    }

    pub(super) const COLUMNS: &str = "space, run_revision, spec_json, fresh, image_ref, image_digest, event";

    /// Reads [`Record::COLUMNS`].
    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let event: Vec<u8> = row.get(6)?;
        let latest = PhaseEvent::decode(event.as_slice()).map_err(|source| {
            rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Blob, Box::new(source))
        })?;
        Ok(Self {
            space: row.get(0)?,
            run_revision: row.get::<_, i64>(1)? as u64,
            spec_json: row.get(2)?,
            fresh: row.get(3)?,
            image_ref: row.get(4)?,
            image_digest: row.get(5)?,
            latest,
        })
    }
}
