//! The node's HTTP entry: a port of a workspace as `http://PORT-WORKSPACE.localhost:ENTRY/`, for browsers on this machine.
//!
//! ```text
//!  browser ──▶ 127.0.0.1, ::1 ──▶ Host? ──▶ token? ──▶ runs? ──▶ Session.Forward ──▶ the workspace's loopback
//!                                  421       401        503        502
//! ```
//!
//! It is a client of the control socket like any other, and may do no more. What comes over TCP may come from any user of the
//! machine and from any page of a browser: hence the token, which the workspace never sees, and the strict Host.

mod admit;
mod answer;
mod forward;
mod headers;
mod key;
mod listen;
mod pass;
mod serve;
mod service;
mod target;

use std::{io, path::PathBuf, sync::Arc};

use cordium_proto::v1::{
    control_client::ControlClient, entry_server::EntryServer, session_client::SessionClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, sync::OnceCell};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use key::Key;

pub use key::KeyError;
pub use service::Service;

/// What of one connection is on its way.
const WINDOW: u32 = 256 << 10;

/// The entry cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listening for the HTTP entry on loopback port {port}: {source}")]
pub struct ListenError {
    port: u16,
    source: io::Error,
}

/// The entry, which listens once it is asked to.
#[derive(Clone)]
pub struct Entry(Arc<Shared>);

struct Shared {
    channel: Channel,
    key: Key,
    /// 0 for any.
    port: u16,
    listening: OnceCell<u16>,
    shutdown: CancellationToken,
}

impl Entry {
    /// Tokens are made with the key in `key`, which is made when missing. The control API is asked on `socket`.
    pub fn new(
        socket: PathBuf,
        key: &std::path::Path,
        port: u16,
        shutdown: CancellationToken,
    ) -> Result<Self, KeyError> {
        let channel = Endpoint::from_static("http://control.local")
            .initial_stream_window_size(WINDOW)
            // One that is not read does not hold up the others.
            .initial_connection_window_size(2 * serve::MOST as u32 * WINDOW)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Ok(Self::with_channel(channel, Key::open(key)?, port, shutdown))
    }

    fn with_channel(channel: Channel, key: Key, port: u16, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Shared { channel, key, port, listening: OnceCell::new(), shutdown }))
    }

    /// The gRPC service that hands out addresses.
    pub fn service(&self) -> EntryServer<Service> {
        EntryServer::new(Service(self.clone()))
    }

    /// Listens on loopback, if it does not yet, and returns the port.
    pub async fn listen(&self) -> Result<u16, ListenError> {
        let port = self.0.port;
        let listening = self.0.listening.get_or_try_init(|| async {
            let (listeners, port) = listen::bind(port).await?;
            tracing::info!(port, "the HTTP entry listens on loopback");
            for listener in listeners {
                tokio::spawn(serve::accept(self.0.clone(), listener, port));
            }
            Ok(port)
        });
        listening.await.copied().map_err(|source| ListenError { port, source })
    }
}

impl Shared {
    fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(cordium_proto::MAX_MESSAGE_BYTES)
    }

    fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone()).max_decoding_message_size(cordium_proto::MAX_MESSAGE_BYTES)
    }
}
