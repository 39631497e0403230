//! The gRPC face of the agent. Each call is guarded: a panic in one is that call's error and nothing more.

pub mod agent;
pub mod session;

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tonic::Status;

use crate::state::NotReady;

pub async fn guard<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match AssertUnwindSafe(call).catch_unwind().await {
        Ok(result) => result,
        Err(_) => Err(Status::internal("the call failed inside the agent; its log has the details")),
    }
}

impl From<NotReady> for Status {
    fn from(error: NotReady) -> Self {
        Status::failed_precondition(error.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_that_call() {
        let status = guard(async { if true { panic!("boom") } else { Ok(()) } }).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
    }
}
