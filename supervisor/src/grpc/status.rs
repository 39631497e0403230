//! The one place where an error becomes a gRPC status.

use cordium_proto::HINT_KEY;
use tonic::{Code, Status, metadata::MetadataValue};

use crate::{logs::LogError, request_error::RequestError, store::StoreError};

impl From<RequestError> for Status {
    fn from(error: RequestError) -> Self {
        let code = match &error {
            RequestError::Invalid(_) => Code::InvalidArgument,
            RequestError::Unsupported(_) => Code::Unimplemented,
            RequestError::NotFound(_) => Code::NotFound,
            RequestError::Exists(_) => Code::AlreadyExists,
            RequestError::WrongState { .. } => Code::FailedPrecondition,
            RequestError::Exhausted(_) => Code::ResourceExhausted,
            RequestError::Unavailable(_) => Code::Unavailable,
            RequestError::Internal(_) => Code::Internal,
        };
        if code == Code::Internal {
            tracing::error!(%error, "a request failed");
        }
        let mut status = Self::new(code, error.to_string());
        if let RequestError::WrongState { hint, .. } = &error
            && let Ok(hint) = MetadataValue::try_from(hint.as_str())
        {
            status.metadata_mut().insert(HINT_KEY, hint);
        }
        status
    }
}

/// A failed read in the middle of a stream.
pub fn of_store(error: StoreError) -> Status {
    RequestError::from(error).into()
}

/// A failed read of a log.
pub fn of_log(error: LogError) -> Status {
    match error {
        LogError::Ended => RequestError::Unavailable(error.to_string()).into(),
        LogError::File { .. } => RequestError::Internal(error.to_string()).into(),
    }
}

/// What the agent answered. A broken connection mostly means that the workspace has stopped.
pub fn of_agent(status: Status) -> Status {
    let broken = std::error::Error::source(&status).is_some();
    if !broken {
        return status;
    }
    let message = "the connection to the workspace's agent broke: it may have been stopped".to_owned();
    RequestError::Unavailable(message).into()
}

/// The supervisor ends while a stream that cannot be ended with an OK is open.
pub fn shutting_down() -> Status {
    RequestError::Unavailable("the supervisor is ending; the workspace goes on".to_owned()).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_wrong_state_carries_its_hint() {
        let status: Status = RequestError::wrong_state("it is RUNNING", "stop it first").into();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "it is RUNNING"));
        assert_eq!(status.metadata().get(HINT_KEY).unwrap(), "stop it first");
    }
}
