//! Why a request is refused, before it becomes a gRPC status.

/// A refused or failed request. The text is one clear line; the hint is the next step to take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A field is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A field asks for what is not there yet.
    #[error("{0}")]
    Unsupported(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// There is such a thing already.
    #[error("{0}")]
    Exists(String),
    /// Not in this state.
    #[error("{message}")]
    WrongState {
        /// What is asked for and why it cannot be.
        message: String,
        /// What to do first.
        hint: String,
    },
    /// The disk is full or a limit is reached.
    #[error("{0}")]
    Exhausted(String),
    /// The node is ending or a peer has gone.
    #[error("{0}")]
    Unavailable(String),
    /// A failure of the node's own.
    #[error("{0}")]
    Internal(String),
}

impl RequestError {
    /// The state does not allow it.
    pub fn wrong_state(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::WrongState { message: message.into(), hint: hint.into() }
    }
}

impl From<crate::store::StoreError> for RequestError {
    fn from(error: crate::store::StoreError) -> Self {
        use crate::store::StoreError;
        match &error {
            StoreError::Write(source) if is_full(source) => Self::Exhausted(error.to_string()),
            StoreError::Closed => Self::Unavailable(error.to_string()),
            _ => Self::Internal(error.to_string()),
        }
    }
}

fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let connection = rusqlite::Connection::open(dir.path().join("small.db")).unwrap();
        connection.execute_batch("CREATE TABLE t (x); PRAGMA max_page_count = 3").unwrap();
        let full = connection.execute("INSERT INTO t VALUES (zeroblob(100000))", []).unwrap_err();
        let error = crate::store::StoreError::Write(std::sync::Arc::new(full));
        assert!(matches!(RequestError::from(error), RequestError::Exhausted(_)));
    }
}
