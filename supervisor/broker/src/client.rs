//! The keeper's side: blocking, no threads, no runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::fdpass;
use crate::policy_file::{self, PolicyFileError, Terms};
use crate::wire::{Hello, MAX_MESSAGE, PROTOCOL_VERSION, Registration, Reply, Update};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A living registration. Dropping it, or the end of the process that holds it, closes the workspace's listeners and
/// flows at the broker.
#[derive(Debug)]
pub struct Registered {
    connection: OwnedFd,
}

/// For `poll(2)`: the connection becomes readable when the broker is gone, and the keeper must register anew.
impl AsFd for Registered {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("connecting to the egress broker at {socket}: {source}")]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the egress broker at {socket} runs as user {uid}, not as this process's user")]
    Stranger { socket: PathBuf, uid: u32 },
    #[error("registration is not valid: {0}")]
    Invalid(String),
    #[error(transparent)]
    Policy(#[from] PolicyFileError),
    #[error("sending to the egress broker: {0}")]
    Send(io::Error),
    #[error("waiting for the egress broker's answer: {0}")]
    Receive(io::Error),
    #[error("the egress broker closed the connection without an answer")]
    Closed,
    #[error("the egress broker's answer is not understood: {0}")]
    Answer(serde_json::Error),
    #[error("the egress broker refused it: {0}")]
    Refused(String),
}

impl RegisterError {
    /// Whether the broker is there and has said no: asking again does not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Invalid(_) | Self::Policy(_) | Self::Refused(_))
    }
}

impl Registered {
    /// Replaces the workspace's policy and credentials at the broker. When this returns, the new ones decide, and flows that
    /// they do not allow are being closed.
    pub fn set_policy<'a>(&self, terms: impl Into<Terms<'a>>) -> Result<(), RegisterError> {
        let message = serde_json::to_vec(&Update::SetPolicy)
            .map_err(|error| RegisterError::Invalid(error.to_string()))?;
        let file = policy_file::write(&terms.into())?;
        fdpass::send(&self.connection, &message, &[file.as_fd()]).map_err(RegisterError::Send)?;
        answer(&self.connection)
    }
}

/// A gateway's sockets, all made in its network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Sockets<'a> {
    /// It listens already, as `tcp_dns` does.
    pub tcp: BorrowedFd<'a>,
    pub udp_dns: BorrowedFd<'a>,
    pub tcp_dns: BorrowedFd<'a>,
    /// Bound to [`crate::UDP_PORT`]: transparent, and told of original destinations.
    pub udp: BorrowedFd<'a>,
    /// Raw sockets that write the whole packet.
    pub raw_v4: BorrowedFd<'a>,
    pub raw_v6: Option<BorrowedFd<'a>>,
}

/// Hands a gateway's sockets to the broker.
pub fn register<'a>(
    socket: &Path,
    registration: &Registration,
    terms: impl Into<Terms<'a>>,
    sockets: Sockets<'_>,
) -> Result<Registered, RegisterError> {
    registration.check().map_err(RegisterError::Invalid)?;
    let connection =
        dial(socket).map_err(|source| RegisterError::Connect { socket: socket.to_owned(), source })?;
    let peer = socket_peercred(&connection).map_err(|error| RegisterError::Receive(error.into()))?;
    if peer.uid != rustix::process::geteuid() {
        return Err(RegisterError::Stranger { socket: socket.to_owned(), uid: peer.uid.as_raw() });
    }
    let hello = Hello { version: PROTOCOL_VERSION, registration: registration.clone() };
    let message = serde_json::to_vec(&hello).map_err(|error| RegisterError::Invalid(error.to_string()))?;
    let file = policy_file::write(&terms.into())?;
    let Sockets { tcp, udp_dns, tcp_dns, udp, raw_v4, raw_v6 } = sockets;
    let mut descriptors = vec![tcp, udp_dns, tcp_dns, udp, file.as_fd(), raw_v4];
    descriptors.extend(raw_v6);
    fdpass::send(&connection, &message, &descriptors).map_err(RegisterError::Send)?;
    answer(&connection)?;
    Ok(Registered { connection })
}

fn answer(connection: &OwnedFd) -> Result<(), RegisterError> {
    let (answer, _) = fdpass::receive(connection, MAX_MESSAGE).map_err(RegisterError::Receive)?;
    if answer.is_empty() {
        return Err(RegisterError::Closed);
    }
    match serde_json::from_slice(&answer).map_err(RegisterError::Answer)? {
        Reply::Ok => Ok(()),
        Reply::Error(reason) => Err(RegisterError::Refused(reason)),
    }
}

fn dial(path: &Path) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT))?;
    set_socket_timeout(&socket, Timeout::Send, Some(TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}
