//! The connection to the control API on the supervisor's unix socket.

use std::{io, path::PathBuf, time::Duration};

use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        audit_client::AuditClient, control_client::ControlClient, entry_client::EntryClient,
        node_client::NodeClient, session_client::SessionClient,
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    args::Global,
    autostart,
    error::{CliError, CliResult},
    paths::Paths,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// Start a supervisor when none answers.
    IfNeeded,
    Never,
}

#[derive(Clone)]
pub struct Client {
    channel: Channel,
    pub paths: Paths,
}

impl Client {
    pub async fn connect(global: &Global, start: Start) -> CliResult<Self> {
        let paths = Paths::resolve(global);
        match dial(&paths).await {
            Ok(()) => {}
            Err(e) if absent(&e) && start == Start::IfNeeded && !global.no_autostart => {
                if !paths.can_autostart() {
                    return Err(nobody(&paths, &e).hint(format!(
                        "start one with `cordium-supervisor serve --run-dir {}`, or leave --socket out",
                        paths.run_dir.display()
                    )));
                }
                autostart::start(&paths).await?;
            }
            Err(e) if absent(&e) => {
                return Err(nobody(&paths, &e)
                    .hint("`cordium run` starts one, or start it yourself with `cordium-supervisor serve`"));
            }
            Err(e) => {
                return Err(CliError::new(format!("cannot connect to {}: {e}", paths.socket.display()))
                    .hint(
                        "run this as the user that the supervisor runs as, or name its socket with --socket",
                    ));
            }
        }
        Ok(Self { channel: channel(&paths), paths })
    }

    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub fn audit(&self) -> AuditClient<Channel> {
        AuditClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub fn node(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub fn entry(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone())
    }

    pub fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

fn nobody(paths: &Paths, error: &io::Error) -> CliError {
    CliError::new(format!("no supervisor answers on {} ({error})", paths.socket.display()))
}

fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Connects once, to see that somebody is there and who it is.
pub async fn dial(paths: &Paths) -> io::Result<()> {
    open(paths.socket.clone(), paths.socket_is_explicit).await.map(drop)
}

/// A socket at a default place in a shared directory could be anybody's: secrets go to our own user or root only.
async fn open(socket: PathBuf, any_owner: bool) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(&socket).await?;
    let peer = stream.peer_cred()?.uid();
    if !any_owner && peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the listener belongs to user id {peer}, not to you"),
        ));
    }
    Ok(stream)
}

/// Connects on first use, and again after the supervisor was restarted.
fn channel(paths: &Paths) -> Channel {
    let (socket, explicit) = (paths.socket.clone(), paths.socket_is_explicit);
    Endpoint::from_static("http://cordium.local")
        .user_agent(concat!("cordium/", env!("CARGO_PKG_VERSION")))
        .unwrap_or_else(|_| Endpoint::from_static("http://cordium.local"))
        .connect_timeout(Duration::from_secs(10))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { open(socket, explicit).await.map(TokioIo::new) }
        }))
}
