//! How the project's servers are reached: unix sockets whose peers are asked who they are, TCP, and mutual TLS.

pub mod tcp;
pub mod tls;
pub mod unix;

use std::{io, time::Duration};

/// A connection could not be accepted: mostly that there are no descriptors left, which come back when others end. Asking
/// again at once would only take the processor.
async fn not_accepted(error: &io::Error) {
    tracing::warn!(%error, "accepting a connection");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
