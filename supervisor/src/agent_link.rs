//! The gRPC channel to the agent of a running workspace.
//!
//! It asks the agent for a sign of life while a call is open, as the watch on it always is. An agent that hangs then
//! breaks the connection, and the watch finds out whether it is lost.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{agent_client::AgentClient, session_client::SessionClient},
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

/// How often the agent is asked for a sign of life, and how long it may take to give it. An agent that is only short of
/// CPU must not lose its calls.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Whether a call has broken off without an answer of the agent: it was not there yet, or the connection was lost.
pub fn is_unanswered(status: &Status) -> bool {
    // Only what has arisen on this side has a cause.
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// One channel, shared by everything that talks to the agent.
#[derive(Clone)]
pub struct AgentLink {
    channel: Channel,
}

impl AgentLink {
    /// Connects on first use, and again when the connection breaks.
    pub fn new(socket: &Path) -> Self {
        Self::with_keep_alive(socket, KEEP_ALIVE, KEEP_ALIVE_ANSWER)
    }

    /// As [`AgentLink::new`]; an agent that gives no sign of life `answer` after it was asked breaks the connection.
    pub(crate) fn with_keep_alive(socket: &Path, interval: Duration, answer: Duration) -> Self {
        let socket: PathBuf = socket.to_owned();
        let channel = Endpoint::from_static("http://agent.local")
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(answer)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cordium_proto::v1::{
        AgentEvent, FindOwnerRequest, FindOwnerResponse, PrepareRequest, PrepareResponse, ShutdownRequest,
        ShutdownResponse, WatchAgentRequest,
        agent_server::{Agent, AgentServer},
    };
    use futures::stream::{Empty, empty};
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Request, Response, transport::Server};

    use super::*;

    struct Refuses;

    #[tonic::async_trait]
    impl Agent for Refuses {
        type WatchAgentStream = Empty<Result<AgentEvent, Status>>;
        async fn prepare(&self, _: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
            Err(Status::unknown("no"))
        }
        async fn watch_agent(
            &self,
            _: Request<WatchAgentRequest>,
        ) -> Result<Response<Self::WatchAgentStream>, Status> {
            Ok(Response::new(empty()))
        }
        async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
            Err(Status::unknown("no"))
        }
        async fn find_owner(
            &self,
            _: Request<FindOwnerRequest>,
        ) -> Result<Response<FindOwnerResponse>, Status> {
            Err(Status::unknown("no"))
        }
    }

    #[tokio::test]
    async fn a_connection_that_breaks_is_no_answer_and_a_refusal_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let link = AgentLink::new(&path);
        let ask = async || link.agent().prepare(PrepareRequest::default()).await.unwrap_err();
        assert!(is_unanswered(&ask().await), "nobody is there");
        let listener = UnixListener::bind(&path).unwrap();
        let hang_up = async {
            let (stream, _) = listener.accept().await.unwrap();
            stream.readable().await.unwrap();
            drop(stream);
        };
        let (broken, ()) = tokio::join!(ask(), hang_up);
        assert!(is_unanswered(&broken), "{broken:?}");
        let server = Server::builder().add_service(AgentServer::new(Refuses));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        let refused = ask().await;
        assert!(!is_unanswered(&refused) && refused.message() == "no", "{refused:?}");
    }
}
