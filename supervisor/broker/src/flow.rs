//! One workspace's TCP: accept, decide, dial, copy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::limiter::Limiter;
use crate::node;
use crate::policy::{Decision, Rules};
use crate::splice::{Activity, Pipes, copy};

/// Open flows of one workspace, where the limit of descriptors leaves room.
const MAX_FLOWS: usize = 10_000;
const DIAL: Duration = Duration::from_secs(15);
/// RFC 5382 asks a translator to keep an idle connection for two hours and four minutes.
const IDLE: Duration = Duration::from_secs(2 * 3600 + 240);
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(900);
/// Pause after a failed accept, when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(50);

/// What all flows of a workspace share.
pub(crate) struct Flows {
    pub workspace: String,
    pub rules: Arc<Rules>,
    pub pipes: Arc<Pipes>,
    pub log: Limiter,
    /// Most flows open at once.
    pub limit: usize,
}

/// What a flow holds at most: two connections, and a pipe in each direction while the other side does not take its bytes.
const DESCRIPTORS: u64 = 6;

/// How many flows one workspace may have: one whose flows are all stuck takes no more than half of all descriptors.
pub(crate) fn flow_limit(descriptors: u64) -> usize {
    usize::try_from(descriptors / (2 * DESCRIPTORS)).unwrap_or(MAX_FLOWS).clamp(16, MAX_FLOWS)
}

impl Flows {
    /// Accepts until it is dropped; the flows end with it.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) if open.len() < self.limit => {
                        let flows = Arc::clone(&self);
                        open.spawn(async move { flows.run(client).await });
                    }
                    Ok((client, _)) => {
                        reset(&client);
                        let destination = original_destination(&client).ok();
                        self.denied(destination, "max-flows", &format!("{} flows are open", self.limit));
                    }
                    Err(error) => {
                        if let Some(suppressed) = self.log.admit() {
                            warn!(workspace = self.workspace, %error, suppressed, "accepting a flow");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
    }

    fn denied(&self, destination: Option<SocketAddr>, rule: &str, reason: &str) {
        let Some(suppressed) = self.log.admit() else { return };
        let destination = destination.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        warn!(workspace = self.workspace, destination, rule, reason, suppressed, "flow denied");
    }

    async fn run(&self, client: TcpStream) {
        let client = End::new(client);
        let destination = match original_destination(&client.stream) {
            Ok(destination) => destination,
            Err(error) => return self.denied(None, "no-destination", &error.to_string()),
        };
        let target = match self.rules.decide(destination, node::owns) {
            Decision::Allow(target) => target,
            Decision::Deny { rule, reason } => return self.denied(Some(destination), rule, reason),
        };
        let dialed = tokio::select! {
            dialed = tokio::time::timeout(DIAL, dial(target)) => dialed,
            () = failed(&client.stream) => return,
        };
        let upstream = match dialed {
            Ok(Ok(upstream)) => End::new(upstream),
            Ok(Err(error)) => {
                return debug!(workspace = self.workspace, %destination, %error, "destination not reached");
            }
            Err(_) => {
                return debug!(workspace = self.workspace, %destination, "destination did not answer in time");
            }
        };
        if let Err(error) = join(&client.stream, &upstream.stream, &self.pipes).await {
            return debug!(workspace = self.workspace, %destination, %error, "flow broken");
        }
        client.close();
        upstream.close();
    }
}

/// Copies both ways until both have ended; an error, a reset on either side or idleness breaks the flow.
async fn join(client: &TcpStream, upstream: &TcpStream, pipes: &Pipes) -> io::Result<()> {
    for stream in [client, upstream] {
        stream.set_nodelay(true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(stream, 8)?;
    }
    let activity = Activity::new();
    let both = async {
        tokio::try_join!(copy(client, upstream, pipes, &activity), copy(upstream, client, pipes, &activity))
            .map(|_| ())
    };
    tokio::select! {
        biased;
        ended = both => ended,
        () = failed(client) => Err(io::ErrorKind::ConnectionReset.into()),
        () = failed(upstream) => Err(io::ErrorKind::ConnectionReset.into()),
        () = activity.idle(IDLE, HALF_CLOSED_IDLE) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Returns when the connection has failed, even while nobody reads from it or writes to it.
async fn failed(stream: &TcpStream) {
    // An error of this wait is a failure too.
    let _ = stream.ready(Interest::ERROR).await;
}

async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.connect(target).await
}

/// Where the client wanted to go before nft redirected it.
fn original_destination(client: &TcpStream) -> io::Result<SocketAddr> {
    match client.local_addr()? {
        SocketAddr::V6(address) if address.ip().to_ipv4_mapped().is_none() => {
            Ok(sockopt::ipv6_original_dst(client)?.into())
        }
        _ => Ok(sockopt::ip_original_dst(client)?.into()),
    }
}

/// From now on, dropping the stream sends a reset.
fn reset(stream: &TcpStream) {
    // Without the option the peer sees an ordinary end instead; there is nothing better to do.
    let _ = stream.set_zero_linger();
}

/// A connection that is reset when dropped, unless the flow came to its proper end.
struct End {
    stream: TcpStream,
    proper: bool,
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self { stream, proper: false }
    }

    fn close(mut self) {
        self.proper = true;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.proper {
            reset(&self.stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_workspace_takes_at_most_half_of_the_descriptors() {
        assert_eq!(flow_limit(1_048_576), 10_000);
        assert_eq!(flow_limit(20_000), 1_666);
        assert_eq!(flow_limit(0), 16);
    }
}
