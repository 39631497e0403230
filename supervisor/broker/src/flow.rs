//! One workspace's TCP: accept, decide, dial, hear the client where a name decides, copy, and end what a new policy ends.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use cordium_egress::{Host, Moment, Reason};
use rustix::net::sockopt;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::denials::{Denial, Protocol, Ring, What, Why};
use crate::dns::Upstreams;
use crate::end::{End, reset};
use crate::inspect::{self, Way};
use crate::limiter::Limiter;
use crate::node;
use crate::pins::Pins;
use crate::policy::{Decision, Passage, Rules, why};
use crate::said::{Spoken, begins_tls, hear};
use crate::service;
use crate::splice::{Activity, Pipes, copy};

/// Open flows of one workspace, where the limit of descriptors leaves room.
const MAX_FLOWS: usize = 10_000;
/// Inspected flows of one workspace: HTTP and TLS take memory, a few MiB of each at worst.
pub(crate) const MAX_INSPECTED: usize = 128;
const DIAL: Duration = Duration::from_secs(15);
/// RFC 5382 asks a translator to keep an idle connection for two hours and four minutes.
pub(crate) const IDLE: Duration = Duration::from_secs(2 * 3600 + 240);
pub(crate) const HALF_CLOSED_IDLE: Duration = Duration::from_secs(900);
/// Pause after a failed accept, when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(50);

/// What all flows of a workspace share.
pub(crate) struct Flows {
    pub workspace: String,
    pub rules: Arc<Rules>,
    pub pins: Arc<Pins>,
    pub ring: Arc<Ring>,
    pub pipes: Arc<Pipes>,
    pub log: Limiter,
    /// Most flows open at once.
    pub limit: usize,
    /// Those that may be inspected at once.
    pub inspected: Semaphore,
    /// Finds the servers of services.
    pub upstreams: Arc<Upstreams>,
    pub services: service::Shared,
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
                        let why = why("max-flows", "too many flows are open", "close some");
                        let destination = original_destination(&client).ok();
                        let protocol = Protocol::Tcp;
                        let what = What { names: &[], destination, client: None, protocol, request: None };
                        self.ring.add(&what, why);
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

    /// Before the client is refused, so that its program can be found.
    pub(crate) async fn denied(
        &self,
        client: Option<SocketAddr>,
        destination: Option<SocketAddr>,
        names: &[Host],
        why: Why,
    ) -> Arc<Denial> {
        let what = What { names, destination, client, protocol: Protocol::Tcp, request: None };
        self.ring.deny(&what, why).await
    }

    async fn run(&self, client: TcpStream) {
        let client = End::new(client);
        let destination = match original_destination(&client.stream) {
            Ok(destination) => destination,
            Err(error) => {
                return debug!(workspace = self.workspace, %error, "a flow without a destination");
            }
        };
        match self.rules.service_at(destination) {
            Some(Ok(ready)) => return service::serve(self, &ready, client, destination).await,
            Some(Err((host, why))) => {
                let denial = self.denied(client.peer(), Some(destination), &[host], why).await;
                return client.refuse(&denial, false).await;
            }
            None => {}
        }
        let mut changes = self.rules.changes();
        let names = match self.rules.mapped_name(destination) {
            Some(name) => Arc::from([name]),
            None => self.pins.names(destination.ip(), Instant::now()),
        };
        let began = SystemTime::now().into();
        let (target, asks) = match self.rules.decide(destination, &names, began, node::owns) {
            Decision::Allow(target) => (target, false),
            Decision::Ask(target) => (target, true),
            Decision::Deny(why) => {
                let denial = self.denied(client.peer(), Some(destination), &names, why).await;
                return client.refuse(&denial, false).await;
            }
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
        let flow = Flow { rules: &self.rules, destination, names, began, asks, spoken: OnceLock::new() };
        match flow.join(&client.stream, &upstream.stream, &self.pipes, &mut changes).await {
            Ok(()) => {
                client.close();
                upstream.close();
            }
            Err(Broken::Io(error)) => {
                debug!(workspace = self.workspace, %destination, %error, "flow broken");
            }
            Err(Broken::Inspect { host, way }) => {
                if let Some(why) = self.inspect(&flow, host, way, (client, upstream), &mut changes).await {
                    // Its connection has ended already.
                    let what = What {
                        names: flow.said(),
                        destination: Some(destination),
                        client: None,
                        protocol: Protocol::Tcp,
                        request: None,
                    };
                    self.ring.add(&what, why);
                }
            }
            Err(Broken::Denied { why, answered }) => {
                drop(upstream);
                let denial = self.denied(client.peer(), Some(destination), flow.said(), why).await;
                if !answered {
                    client.refuse(&denial, true).await;
                }
            }
        }
    }

    /// Passes on the requests of a flow to a host that has credentials or rules by request; why, if it is refused or a new
    /// policy ends it.
    async fn inspect(
        &self,
        flow: &Flow<'_>,
        host: Host,
        way: Way,
        (client, upstream): (End, End),
        changes: &mut Changes,
    ) -> Option<Why> {
        let Ok(_permit) = self.inspected.try_acquire() else {
            return Some(why(
                "max-inspected",
                "too many connections whose requests are looked at are open",
                "close some",
            ));
        };
        let activity = Arc::new(Activity::new());
        let (client, upstream) = (client.noting(&activity), upstream.noting(&activity));
        // Nothing but the credential is why it is looked into.
        let only_bound = matches!(flow.passage(), Ok(Passage::Open));
        let place = inspect::Place {
            host: host.clone(),
            way,
            names: Arc::clone(&flow.names),
            destination: flow.destination,
            client: client.stream.peer_addr().ok(),
            rules: Arc::clone(&self.rules),
            ring: Arc::clone(&self.ring),
        };
        tokio::select! {
            ended = inspect::serve(Arc::new(place), client, upstream) => {
                if let Err(error) = ended {
                    debug!(workspace = self.workspace, %host, %error, "inspected flow broken");
                }
            }
            why = flow.revoked(changes, true) => return Some(why),
            () = self.rules.unbound(&host), if only_bound => {}
            () = activity.idle(IDLE, HALF_CLOSED_IDLE) => {}
        }
        None
    }
}

/// One flow whose destination has been reached.
struct Flow<'a> {
    rules: &'a Rules,
    destination: SocketAddr,
    /// Those that led to the destination when the flow was opened.
    names: Arc<[Host]>,
    /// Conditions on the time go by this.
    began: Moment,
    /// The client's bytes wait until what they say is allowed.
    asks: bool,
    spoken: OnceLock<Spoken>,
}

/// Why a flow did not come to its proper end.
enum Broken {
    Io(io::Error),
    /// It is to a host with credentials or with rules by request: its requests are passed on one by one.
    Inspect {
        host: Host,
        way: Way,
    },
    Denied {
        why: Why,
        /// Something has come back already: an answer of ours would be read as part of it.
        answered: bool,
    },
}

impl Flow<'_> {
    /// Copies both ways until both have ended; an error, a reset on either side, idleness or the policy breaks the flow.
    async fn join(
        &self,
        client: &TcpStream,
        upstream: &TcpStream,
        pipes: &Pipes,
        changes: &mut Changes,
    ) -> Result<(), Broken> {
        for stream in [client, upstream] {
            keep_alive(stream).map_err(Broken::Io)?;
        }
        let activity = Activity::new();
        let up = async {
            let denied = |why| Broken::Denied { why, answered: activity.has_moved() };
            let mut tls = self.may_be_bound() && begins_tls(client).await.map_err(Broken::Io)?;
            let mut passage = Passage::Open;
            if self.asks || tls {
                passage = self.hear(client).await?.map_err(denied)?;
            }
            if passage == Passage::ByRequest {
                tls = begins_tls(client).await.map_err(Broken::Io)?;
            }
            if let Some((host, way)) = self.looked_into(passage, tls).map_err(denied)? {
                // A server of TLS or HTTP does not speak first.
                let broken = Broken::Io(io::ErrorKind::InvalidData.into());
                return Err(if activity.has_moved() { broken } else { Broken::Inspect { host, way } });
            }
            copy(client, upstream, pipes, &activity).await.map_err(Broken::Io)
        };
        // Some servers speak first.
        let down = async { copy(upstream, client, pipes, &activity).await.map_err(Broken::Io) };
        let both = async { tokio::try_join!(up, down).map(|_| ()) };
        tokio::select! {
            biased;
            ended = both => ended,
            why = self.revoked(changes, false) => Err(Broken::Denied { why, answered: activity.has_moved() }),
            () = failed(client) => Err(Broken::Io(io::ErrorKind::ConnectionReset.into())),
            () = failed(upstream) => Err(Broken::Io(io::ErrorKind::ConnectionReset.into())),
            () = activity.idle(IDLE, HALF_CLOSED_IDLE) => Err(Broken::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Lets the client speak, and decides by what it says.
    async fn hear(&self, client: &TcpStream) -> Result<Result<Passage, Why>, Broken> {
        let spoken = hear(client).await.map_err(Broken::Io)?;
        let spoken = self.spoken.get_or_init(|| spoken);
        Ok(self.settle(spoken))
    }

    fn settle(&self, spoken: &Spoken) -> Result<Passage, Why> {
        let settled = self.rules.settle(self.destination, &self.names, self.began, spoken.said());
        settled.map_err(|why| spoken.explain(why))
    }

    /// Whether one of the names has a credential: no other flow is looked into.
    fn may_be_bound(&self) -> bool {
        self.names.iter().any(|name| self.rules.inspection_of(name).is_some())
    }

    /// What the policy makes of it now.
    fn passage(&self) -> Result<Passage, Why> {
        self.settle(self.spoken.get().unwrap_or(&Spoken::Unasked))
    }

    /// The name that the client asks for and how its requests are seen, if they must be: for a credential, or for the policy.
    fn looked_into(&self, passage: Passage, tls: bool) -> Result<Option<(Host, Way)>, Why> {
        let host = self.spoken.get().and_then(Spoken::name).filter(|name| self.names.contains(name));
        let Some(host) = host else { return Ok(None) };
        let bound = || self.rules.inspection_of(host).map(Way::Tls);
        let way = match (passage, tls) {
            (Passage::ByRequest, true) => Some(Way::Tls(self.rules.inspection().ok_or_else(|| {
                let reason = "the policy goes by method and path here, and the run trusts no authority for a look into TLS";
                why("no-authority", reason, "stop the workspace and start it: it then has one")
            })?)),
            (Passage::ByRequest, false) => Some(Way::Plain),
            (Passage::Open, true) => bound(),
            (Passage::Open, false) => None,
        };
        Ok(way.map(|way| (host.clone(), way)))
    }

    /// What the client said, or else the names that led here.
    fn said(&self) -> &[Host] {
        self.spoken.get().and_then(Spoken::name).map_or(&*self.names, std::slice::from_ref)
    }

    /// Returns when a new policy does not allow this flow, or not as it is passed on.
    async fn revoked(&self, changes: &mut Changes, looked_into: bool) -> Why {
        while changes.changed().await.is_ok() {
            let allowed = match self.spoken.get() {
                None if self.asks => {
                    let may = self.rules.may_speak(self.destination, &self.names, self.began);
                    may.map(|()| Passage::Open)
                }
                _ => self.passage(),
            };
            match allowed {
                Err(why) => return why,
                // Nobody has seen its requests so far.
                Ok(Passage::ByRequest) if !looked_into && self.spoken.get().is_some() => {
                    return why("host-name", Reason::Unasked.text(), Reason::Unasked.next());
                }
                Ok(_) => {}
            }
        }
        std::future::pending().await
    }
}

/// Tells of new policies.
type Changes = tokio::sync::watch::Receiver<Arc<cordium_egress::Compiled>>;

pub(crate) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    Ok(sockopt::set_tcp_keepcnt(stream, 8)?)
}

/// Returns when the connection has failed, even while nobody reads from it or writes to it.
pub(crate) async fn failed(stream: &TcpStream) {
    // An error of this wait is a failure too.
    let _ = stream.ready(Interest::ERROR).await;
}

pub(crate) async fn dial(target: SocketAddr) -> io::Result<TcpStream> {
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
