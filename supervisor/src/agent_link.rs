//! The gRPC channel to the agent of a running workspace.

use std::path::{Path, PathBuf};

use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{agent_client::AgentClient, session_client::SessionClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// One channel, shared by everything that talks to the agent.
#[derive(Clone)]
pub struct AgentLink {
    channel: Channel,
}

impl AgentLink {
    /// Connects on first use, and again when the connection breaks.
    pub fn new(socket: &Path) -> Self {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://agent.local")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }));
        Self { channel }
    }

    /// The life of the sandbox.
    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Commands, terminals and logs.
    pub fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }
}
