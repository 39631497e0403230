//! What can go wrong with the files.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("could not make the audit log's directory {path}: {source}")]
    MakeDirectory { path: PathBuf, source: io::Error },
    #[error("could not list the audit log's directory {path}: {source}")]
    List { path: PathBuf, source: io::Error },
    #[error("could not open the audit log {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("could not read the audit log {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("could not write to the audit log {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error("could not bring the audit log {path} to disk: {source}")]
    Sync { path: PathBuf, source: io::Error },
    #[error("could not remove the oldest part of the audit log, {path}: {source}")]
    Remove { path: PathBuf, source: io::Error },
    #[error("could not write an audit record: {0}")]
    Encode(#[from] serde_json::Error),
}

impl AuditError {
    /// Whether it is for want of space.
    pub fn is_full(&self) -> bool {
        let (Self::MakeDirectory { source, .. }
        | Self::Open { source, .. }
        | Self::Write { source, .. }
        | Self::Sync { source, .. }) = self
        else {
            return false;
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}
