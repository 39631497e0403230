//! The embedded scheduler: a client of our own Node service, over gRPC as anywhere else, on a pipe in memory.

use std::{io, path::Path};

use cordium_scheduler::{ControlService, Embedded, SchedulerError};
use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, Uri};

/// The size of the pipe in each direction.
const PIPE: usize = 1 << 20;
/// How many connections may wait to be accepted.
const WAITING: usize = 16;

/// A channel to a server in this process, and the connections that the server is to accept.
pub fn pipe() -> (Channel, impl Stream<Item = io::Result<DuplexStream>> + Send) {
    let (offer, accept) = mpsc::channel(WAITING);
    let channel = Endpoint::from_static("http://node.local")
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let offer = offer.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(PIPE);
                offer.send(theirs).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        }));
    (channel, ReceiverStream::new(accept).map(Ok))
}

/// The scheduler of this machine.
pub struct Scheduler(Embedded);

impl Scheduler {
    /// Starts it with its store in `state_dir`.
    pub async fn start(state_dir: &Path, node: &str, channel: Channel) -> Result<Self, SchedulerError> {
        let db = state_dir.join("control.db");
        let key = state_dir.join("secret.key");
        cordium_scheduler::embedded(&db, &key, node, channel).await.map(Self)
    }

    /// The Control, Session and Audit services.
    pub fn control(&self) -> ControlService {
        self.0.control.clone()
    }

    /// Asks its streams to end.
    pub fn begin_shutdown(&self) {
        self.0.begin_shutdown();
    }

    /// Waits until it has ended.
    pub async fn shutdown(self) {
        self.0.shutdown().await;
    }
}
