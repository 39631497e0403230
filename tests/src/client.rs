//! gRPC clients of a supervisor's or a scheduler's services, over its unix socket or over mutual TLS.

use std::path::Path;

use anyhow::{Context, Result};
use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{control_client::ControlClient, node_client::NodeClient, session_client::SessionClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

#[derive(Clone)]
pub struct Clients {
    pub control: ControlClient<Channel>,
    pub session: SessionClient<Channel>,
    pub node: NodeClient<Channel>,
}

impl Clients {
    /// Connects to a socket that is already served.
    pub async fn unix(socket: &Path) -> Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is only a form: the connector knows the socket.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        Ok(Self::over(channel.with_context(|| format!("connecting to {}", socket.display()))?))
    }

    /// Connects over TLS.
    pub async fn tls(address: &str, tls: ClientTlsConfig) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?.tls_config(tls)?;
        Ok(Self::over(endpoint.connect().await.with_context(|| format!("connecting to {address}"))?))
    }

    fn over(channel: Channel) -> Self {
        Self {
            control: ControlClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            session: SessionClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            node: NodeClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
        }
    }
}

/// Checks that a call was refused with a code, and returns the message.
pub fn refused<T: std::fmt::Debug>(
    answer: Result<tonic::Response<T>, tonic::Status>,
    code: tonic::Code,
) -> Result<String> {
    match answer {
        Ok(answer) => anyhow::bail!("expected {code:?}, but it was done: {:?}", answer.into_inner()),
        Err(status) if status.code() == code => Ok(status.message().to_owned()),
        Err(status) => anyhow::bail!("expected {code:?}, got {:?}: {}", status.code(), status.message()),
    }
}
