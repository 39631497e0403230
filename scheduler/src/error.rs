//! What can go wrong, and the one place where it becomes a gRPC status.

use std::path::PathBuf;

use cordium_audit::AuditError;
use cordium_proto::HINT_KEY;
use cordium_spec::SpecError;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

/// Why the scheduler could not be brought up.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    #[error("could not make the directory {path}: {source}")]
    MakeDirectory { path: PathBuf, source: std::io::Error },
    #[error("could not lock {path}: {source}")]
    Lock { path: PathBuf, source: std::io::Error },
    #[error("{path} is in use by another scheduler; stop that one first")]
    InUse { path: PathBuf },
    #[error("could not make the store {path}: {source}")]
    MakeStore { path: PathBuf, source: std::io::Error },
    #[error("could not open the store {path}: {source}")]
    OpenStore { path: PathBuf, source: rusqlite::Error },
    #[error("could not bring the store {path} from schema {from} to {to}: {source}")]
    Migrate { path: PathBuf, from: usize, to: usize, source: rusqlite::Error },
    #[error("the store {path} has schema {found}, this program knows up to {known}; use the newer program")]
    NewerStore { path: PathBuf, found: usize, known: usize },
    #[error("could not read the secret key {path}: {source}")]
    ReadKey { path: PathBuf, source: std::io::Error },
    #[error("could not write the secret key {path}: {source}")]
    WriteKey { path: PathBuf, source: std::io::Error },
    #[error("the secret key {path} has {found} bytes; it must have 32")]
    KeyLength { path: PathBuf, found: usize },
    #[error("the secret key {path} may be read by others (mode {mode:o}); run: chmod 600 {path}")]
    KeyMode { path: PathBuf, mode: u32 },
    #[error("could not get random bytes for the secret key: {0}")]
    Random(String),
    #[error(
        "the store {path} holds secrets that the key {key} does not open; give the key they were written with"
    )]
    WrongKey { path: PathBuf, key: PathBuf },
    #[error("could not read what is kept of the audit log: {0}")]
    AuditKept(String),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("node name {name:?}: {reason}")]
    NodeName { name: String, reason: String },
}

const FREE_SPACE: &str = "free some space on the scheduler's disk";

/// Why a request was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Spec(#[from] SpecError),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Exists(String),
    #[error("{message}")]
    State { message: String, hint: Option<String> },
    #[error("{message}")]
    Exhausted { message: String, hint: Option<String> },
    #[error("node {node} does not answer: {message}")]
    NodeGone { node: String, message: String },
    /// What only `force` can bring to an end, if the node does not come back; `way` is the command for it.
    #[error("workspace {workspace:?} is on node {node}, which does not answer: {message}")]
    Stranded { workspace: String, node: String, message: String, way: &'static str },
    /// What a node answered, as it put it.
    #[error("{}", .0.message())]
    Node(Box<Status>),
    #[error("could not read or write the store: {0}")]
    Store(#[from] rusqlite::Error),
    #[error("the stored {what} of {of} cannot be read: {why}")]
    Corrupt { what: &'static str, of: String, why: String },
    #[error("could not get random bytes: {0}")]
    Random(String),
    /// What is not recorded is not done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("the scheduler is shutting down")]
    ShuttingDown,
}

impl ApiError {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub fn state(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::State { message: message.into(), hint: Some(hint.into()) }
    }

    pub fn exhausted(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Exhausted { message: message.into(), hint: Some(hint.into()) }
    }

    /// That a node is gone, for a request about a workspace on it that `way` forces; other errors as they are.
    pub fn stranded(self, workspace: &str, way: &'static str) -> Self {
        match self {
            Self::NodeGone { node, message } => {
                Self::Stranded { workspace: workspace.to_owned(), node, message, way }
            }
            other => other,
        }
    }

    /// Sorts what a call to a node came back with: nobody there, or an answer.
    pub fn from_node(node: &str, status: Status) -> Self {
        if unanswered(&status) {
            Self::NodeGone { node: node.to_owned(), message: describe(&status) }
        } else {
            Self::Node(Box::new(status))
        }
    }
}

/// True when it is not known whether the other side has acted on the call.
pub fn unanswered(status: &Status) -> bool {
    use std::error::Error as _;
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => true,
        // A broken connection is reported by the client under these codes, with its cause attached.
        Code::Unknown | Code::Internal => status.source().is_some(),
        _ => false,
    }
}

/// A status in words. The client's own ones say little without what caused them ("transport error").
pub fn describe(status: &Status) -> String {
    use std::error::Error as _;
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error {
            ApiError::Invalid(_) | ApiError::Spec(_) => Status::invalid_argument(message),
            ApiError::NotFound(_) => Status::not_found(message),
            ApiError::Exists(_) => Status::already_exists(message),
            ApiError::State { hint, .. } => with_hint(Code::FailedPrecondition, message, hint.as_deref()),
            ApiError::Exhausted { hint, .. } => with_hint(Code::ResourceExhausted, message, hint.as_deref()),
            ApiError::NodeGone { .. } => {
                with_hint(Code::Unavailable, message, Some("see the nodes with: cordium status"))
            }
            ApiError::Stranded { workspace, way, .. } => {
                let hint = format!("if the node is gone for good: {way} {workspace} --force");
                with_hint(Code::Unavailable, message, Some(&hint))
            }
            ApiError::Node(status) => relayed(&status),
            ApiError::ShuttingDown => Status::unavailable(message),
            ApiError::Store(source) => {
                tracing::error!(error = %source, "the store failed");
                match source.sqlite_error_code() {
                    Some(rusqlite::ErrorCode::DiskFull) => {
                        with_hint(Code::ResourceExhausted, message, Some(FREE_SPACE))
                    }
                    _ => Status::internal(message),
                }
            }
            ApiError::Audit(source) => {
                tracing::error!(error = %source, "the audit log failed");
                match source.is_full() {
                    true => with_hint(Code::ResourceExhausted, message, Some(FREE_SPACE)),
                    false => Status::internal(message),
                }
            }
            ApiError::Corrupt { .. } | ApiError::Random(_) => {
                tracing::error!(error = %message, "request failed");
                Status::internal(message)
            }
        }
    }
}

/// A status with the next step to take in its trailer.
pub fn with_hint(code: Code, message: impl Into<String>, hint: Option<&str>) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(value) = hint.and_then(|h| MetadataValue::try_from(h).ok()) {
        metadata.insert(HINT_KEY, value);
    }
    Status::with_metadata(code, message, metadata)
}

/// A node's status for our own caller: its words and its hint, without the headers of the other connection.
pub fn relayed(status: &Status) -> Status {
    let hint = status.metadata().get(HINT_KEY).and_then(|v| v.to_str().ok());
    with_hint(status.code(), status.message(), hint)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hint_travels_in_the_trailer() {
        let status = Status::from(ApiError::state("workspace a is stopped", "cordium start a"));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "workspace a is stopped");
        assert_eq!(status.metadata().get(HINT_KEY).unwrap(), "cordium start a");
    }

    #[test]
    fn a_nodes_answer_keeps_its_code_and_hint_only() {
        let mut status = with_hint(Code::ResourceExhausted, "disk full", Some("free some"));
        status.metadata_mut().insert("date", MetadataValue::from_static("today"));
        let ours = Status::from(ApiError::from_node("n1", status));
        assert_eq!(ours.code(), Code::ResourceExhausted);
        assert_eq!(ours.metadata().get(HINT_KEY).unwrap(), "free some");
        assert!(ours.metadata().get("date").is_none());
    }

    #[test]
    fn silence_is_told_from_an_answer() {
        assert!(unanswered(&Status::unavailable("x")));
        assert!(!unanswered(&Status::internal("the node said so")));
        assert!(!unanswered(&Status::invalid_argument("x")));
    }
}
