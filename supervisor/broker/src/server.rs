//! The registration socket: one connection a workspace, and its listeners live as long as it does.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cordium_egress::Compiled;
use rustix::net::{AddressFamily, SocketFlags, SocketType, accept_with, ipproto, sockopt};
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::denials::{Owners, Ring, Rings};
use crate::dns::{Names, Upstreams};
use crate::fdpass;
use crate::flow::{Flows, MAX_INSPECTED};
use crate::inspect::{Inspection, Roots};
use crate::limiter::Limiter;
use crate::pins::Pins;
use crate::policy::Rules;
use crate::policy_file;
use crate::records::{Account, Journal};
use crate::service;
use crate::splice::Pipes;
use crate::udp::{Back, Relay};
use crate::wire::{DESCRIPTORS, Hello, MAX_MESSAGE, Registration, Reply, Update};

const MAX_WORKSPACES: usize = 4096;
/// A keeper has its message ready when it connects.
const HELLO: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// What all workspaces share.
pub(crate) struct Shared {
    pub pipes: Arc<Pipes>,
    pub upstreams: Arc<Upstreams>,
    pub rings: Arc<Rings>,
    pub journal: Arc<Journal>,
    pub owners: Arc<Owners>,
    /// The authorities that the node trusts.
    pub roots: Roots,
    /// Most flows that one workspace may have open.
    pub flow_limit: usize,
    /// The same, of UDP.
    pub udp_limit: usize,
    /// Of UDP, what all workspaces may still open.
    pub udp_left: Arc<Semaphore>,
}

/// A gateway's sockets, checked and ready.
struct Sockets {
    tcp: TcpListener,
    udp_dns: UdpSocket,
    tcp_dns: TcpListener,
    udp: UdpSocket,
    back: Back,
}

#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("the peer is user {0}, not this broker's user")]
    Stranger(u32),
    #[error("reading the peer's credentials: {0}")]
    Credentials(io::Error),
    #[error("the peer sent nothing in time")]
    Silent,
    #[error("receiving the registration: {0}")]
    Receive(io::Error),
    #[error("{0}")]
    Invalid(String),
    #[error("taking over the {socket} socket: {source}")]
    Socket { socket: &'static str, source: io::Error },
    #[error("answering: {0}")]
    Answer(io::Error),
}

/// Accepts keepers until it is dropped.
pub(crate) async fn serve(listener: AsyncFd<OwnedFd>, shared: Arc<Shared>) {
    let mut workspaces = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            Some(_) = workspaces.join_next() => continue,
        };
        match accepted {
            Ok(_) if workspaces.len() >= MAX_WORKSPACES => {
                warn!("registration refused: {MAX_WORKSPACES} workspaces are registered");
            }
            Ok(connection) => {
                let shared = Arc::clone(&shared);
                workspaces.spawn(async move { serve_keeper(connection, &shared).await });
            }
            Err(error) => {
                warn!(%error, "accepting a keeper");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = loop {
        let mut ready = listener.readable().await?;
        match ready.try_io(|listener| Ok(accept_with(listener, flags)?)) {
            Ok(accepted) => break accepted?,
            Err(_) => continue,
        }
    };
    crate::sys::watch(connection)
}

async fn serve_keeper(connection: AsyncFd<OwnedFd>, shared: &Shared) {
    let (registration, (policy, inspection, services), sockets) =
        match handshake(&connection, &shared.roots).await {
            Ok(registered) => registered,
            Err(error) => {
                warn!(%error, "registration refused");
                // Told if the peer still listens; it is refused either way.
                let _ = answer(&connection, &Reply::Error(error.to_string()));
                return;
            }
        };
    let workspace = registration.workspace.clone();
    info!(workspace, host_ports = ?registration.host_ports, "workspace registered");
    let rules = Arc::new(Rules::new(&registration, policy, inspection));
    rules.set_services(services);
    let account =
        Arc::new(Account::new(workspace.clone(), registration.run.clone(), Arc::clone(&shared.journal)));
    let ring = shared.rings.open(&workspace, Arc::clone(&account), Arc::clone(&shared.owners));
    let mut tasks = start(registration.workspace, Arc::clone(&rules), Arc::clone(&ring), sockets, shared);
    updates(&connection, &workspace, &rules, &shared.roots).await;
    tasks.shutdown().await;
    account.end();
    shared.rings.close(&ring);
    info!(workspace, "workspace unregistered");
}

/// Takes new policies and credentials until the connection ends. One that is not understood is answered so, and the old one holds.
async fn updates(connection: &AsyncFd<OwnedFd>, workspace: &str, rules: &Rules, roots: &Roots) {
    while let Ok((message, descriptors)) = receive(connection).await {
        if message.is_empty() {
            return;
        }
        let reply = match update(&message, descriptors, roots) {
            Ok((policy, inspection, services)) => {
                rules.set_services(services);
                rules.set(policy, inspection);
                info!(workspace, "policy changed");
                Reply::Ok
            }
            Err(error) => {
                warn!(workspace, error, "new policy refused: the old one holds");
                Reply::Error(error)
            }
        };
        if answer(connection, &reply).is_err() {
            return;
        }
    }
}

/// A policy, and credentials and services if there are any, ready for decisions.
type Ready = (Compiled, Option<Inspection>, Option<service::Table>);

fn update(message: &[u8], descriptors: Vec<OwnedFd>, roots: &Roots) -> Result<Ready, String> {
    let Update::SetPolicy =
        serde_json::from_slice(message).map_err(|error| format!("the message is not understood: {error}"))?;
    let count = descriptors.len();
    let [file] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| format!("{count} descriptors came; the policy's is needed"))?;
    compile(file, roots)
}

fn compile(file: OwnedFd, roots: &Roots) -> Result<Ready, String> {
    let received = policy_file::read(file).map_err(|error| error.to_string())?;
    let policy = received.policy.compile().map_err(|error| format!("the policy is not valid: {error}"))?;
    let inspection = received
        .credentials
        .map(|credentials| Inspection::new(credentials, roots))
        .transpose()
        .map_err(|error| format!("the credentials are not valid: {error}"))?;
    let services = received
        .services
        .map(|services| service::Table::new(services, roots))
        .transpose()
        .map_err(|error| format!("the services are not valid: {error}"))?;
    Ok((policy, inspection, services))
}

async fn handshake(
    connection: &AsyncFd<OwnedFd>,
    roots: &Roots,
) -> Result<(Registration, Ready, Sockets), HandshakeError> {
    let peer =
        sockopt::socket_peercred(connection).map_err(|error| HandshakeError::Credentials(error.into()))?;
    if peer.uid != rustix::process::geteuid() {
        return Err(HandshakeError::Stranger(peer.uid.as_raw()));
    }
    let (message, descriptors) = timeout(HELLO, receive(connection))
        .await
        .map_err(|_| HandshakeError::Silent)?
        .map_err(HandshakeError::Receive)?;
    let registration = Hello::parse(&message).map_err(HandshakeError::Invalid)?;
    let count = descriptors.len();
    let mut descriptors = descriptors.into_iter();
    let (Some(tcp), Some(udp_dns), Some(tcp_dns), Some(udp), Some(file), Some(raw_v4), true) = (
        descriptors.next(),
        descriptors.next(),
        descriptors.next(),
        descriptors.next(),
        descriptors.next(),
        descriptors.next(),
        DESCRIPTORS.contains(&count),
    ) else {
        let (least, most) = (DESCRIPTORS.start(), DESCRIPTORS.end());
        return Err(HandshakeError::Invalid(format!(
            "{count} descriptors came; {least} or {most} are needed"
        )));
    };
    let raw_v6 = descriptors.next();
    let ready = compile(file, roots).map_err(HandshakeError::Invalid)?;
    let failed = |socket| move |source| HandshakeError::Socket { socket, source };
    let sockets = Sockets {
        tcp: listener(tcp).map_err(failed("tcp"))?,
        udp_dns: datagram(udp_dns).map_err(failed("udp dns"))?,
        tcp_dns: listener(tcp_dns).map_err(failed("tcp dns"))?,
        udp: datagram(udp).map_err(failed("udp"))?,
        back: Back::new(
            raw(raw_v4, AddressFamily::INET).map_err(failed("raw IPv4"))?,
            raw_v6.map(|socket| raw(socket, AddressFamily::INET6)).transpose().map_err(failed("raw IPv6"))?,
        ),
    };
    answer(connection, &Reply::Ok).map_err(HandshakeError::Answer)?;
    Ok((registration, ready, sockets))
}

fn start(
    workspace: String,
    rules: Arc<Rules>,
    ring: Arc<Ring>,
    sockets: Sockets,
    shared: &Shared,
) -> JoinSet<()> {
    let pins = Arc::new(Pins::default());
    let names = Arc::new(Names::new(
        workspace.clone(),
        Arc::clone(&rules),
        Arc::clone(&pins),
        Arc::clone(&ring),
        Arc::clone(&shared.upstreams),
    ));
    let relay = Relay {
        workspace: workspace.clone(),
        rules: Arc::clone(&rules),
        pins: Arc::clone(&pins),
        ring: Arc::clone(&ring),
        back: Arc::new(sockets.back),
        limit: shared.udp_limit,
        left: Arc::clone(&shared.udp_left),
        log: Limiter::new(),
    };
    let flows = Arc::new(Flows {
        workspace,
        rules,
        pins,
        ring,
        pipes: Arc::clone(&shared.pipes),
        log: Limiter::new(),
        limit: shared.flow_limit,
        inspected: Semaphore::new(MAX_INSPECTED),
        upstreams: Arc::clone(&shared.upstreams),
        services: service::Shared::default(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&flows.ring.account).serve());
    tasks.spawn(flows.serve(sockets.tcp));
    tasks.spawn(Arc::clone(&names).serve_udp(sockets.udp_dns));
    tasks.spawn(names.serve_tcp(sockets.tcp_dns));
    tasks.spawn(relay.serve(sockets.udp));
    tasks
}

async fn receive(connection: &AsyncFd<OwnedFd>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    loop {
        let mut ready = connection.readable().await?;
        if let Ok(received) = ready.try_io(|socket| fdpass::receive(socket, MAX_MESSAGE)) {
            return received;
        }
    }
}

/// One short message into an empty buffer: it does not block.
fn answer(connection: &AsyncFd<OwnedFd>, reply: &Reply) -> io::Result<()> {
    fdpass::send(connection, &serde_json::to_vec(reply)?, &[])
}

fn check(socket: &OwnedFd, kind: SocketType, listening: bool) -> io::Result<()> {
    let domain = sockopt::socket_domain(socket)?;
    let inet = domain == AddressFamily::INET || domain == AddressFamily::INET6;
    if !inet || sockopt::socket_type(socket)? != kind || sockopt::socket_acceptconn(socket)? != listening {
        return Err(wrong_kind());
    }
    rustix::io::ioctl_fionbio(socket.as_fd(), true)?;
    Ok(())
}

fn wrong_kind() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not the kind of socket that is needed")
}

/// One that only sends.
fn raw(socket: OwnedFd, family: AddressFamily) -> io::Result<OwnedFd> {
    check(&socket, SocketType::RAW, false)?;
    let sends = sockopt::socket_protocol(&socket)? == Some(ipproto::RAW);
    if !sends || sockopt::socket_domain(&socket)? != family {
        return Err(wrong_kind());
    }
    Ok(socket)
}

fn listener(socket: OwnedFd) -> io::Result<TcpListener> {
    check(&socket, SocketType::STREAM, true)?;
    TcpListener::from_std(std::net::TcpListener::from(socket))
}

fn datagram(socket: OwnedFd) -> io::Result<UdpSocket> {
    check(&socket, SocketType::DGRAM, false)?;
    UdpSocket::from_std(std::net::UdpSocket::from(socket))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_kinds_of_socket_are_taken() {
        let tcp = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let udp = || OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        assert!(listener(tcp()).is_ok());
        assert!(datagram(udp()).is_ok());
        assert!(listener(udp()).is_err());
        assert!(datagram(tcp()).is_err());
        assert!(listener(rustix::pipe::pipe().unwrap().0).is_err());
        assert!(raw(udp(), AddressFamily::INET).is_err() && raw(tcp(), AddressFamily::INET).is_err());
    }
}
