//! The sockets of one workspace's name server.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cordium_egress::Host;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::answers;
use super::message::{Action, MAX_QUERY, Question, act};
use super::upstream::Upstreams;
use crate::denials::{Looked, Protocol, Ring, What};
use crate::limiter::Limiter;
use crate::node;
use crate::pins::Pins;
use crate::policy::{Rules, why};

/// Queries of one workspace that wait for an upstream.
const MAX_QUERIES: usize = 256;
const MAX_STREAMS: usize = 64;
const STREAM_IDLE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);
const MAX_ANSWER: usize = 65_535;
/// Addresses of one answer to which a way is looked for.
const MAX_WAYS: usize = 8;

/// One workspace's view of the name space.
pub(crate) struct Names {
    workspace: String,
    rules: Arc<Rules>,
    pins: Arc<Pins>,
    ring: Arc<Ring>,
    upstreams: Arc<Upstreams>,
    queries: Arc<Semaphore>,
    log: Limiter,
}

impl Names {
    pub(crate) fn new(
        workspace: String,
        rules: Arc<Rules>,
        pins: Arc<Pins>,
        ring: Arc<Ring>,
        upstreams: Arc<Upstreams>,
    ) -> Self {
        Self {
            workspace,
            rules,
            pins,
            ring,
            upstreams,
            queries: Arc::new(Semaphore::new(MAX_QUERIES)),
            log: Limiter::new(),
        }
    }

    pub(crate) async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut waiting = JoinSet::new();
        let mut packet = vec![0; MAX_QUERY + 1];
        loop {
            tokio::select! {
                received = socket.recv_from(&mut packet) => {
                    let (length, client) = match received {
                        Ok(received) => received,
                        Err(error) => {
                            self.failed(&error, "receiving a query").await;
                            continue;
                        }
                    };
                    match self.admit(&packet[..length], client, true) {
                        Verdict::Ignore => {}
                        // A client that does not take its answer loses it, as on any network.
                        Verdict::Reply(reply) => drop(socket.try_send_to(&reply, client)),
                        Verdict::Refuse(reply, looked) => {
                            let socket = Arc::clone(&socket);
                            waiting.spawn(async move {
                                Ring::wait(looked).await;
                                drop(socket.send_to(&reply, client).await);
                            });
                        }
                        Verdict::Ask(question, name, permit) => {
                            let (names, socket) = (Arc::clone(&self), Arc::clone(&socket));
                            waiting.spawn(async move {
                                let answer = names.resolve(&question, &name, question.udp_limit, false).await;
                                drop(permit);
                                drop(socket.send_to(&answer, client).await);
                            });
                        }
                    }
                }
                Some(_) = waiting.join_next() => {}
            }
        }
    }

    pub(crate) async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut streams = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if streams.len() < MAX_STREAMS => {
                        let names = Arc::clone(&self);
                        streams.spawn(async move { names.serve_stream(stream).await });
                    }
                    Ok((stream, _)) => drop(stream.set_zero_linger()),
                    Err(error) => self.failed(&error, "accepting a query").await,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream) {
        if let Err(error) = self.answer_stream(&mut stream).await
            && error.kind() != io::ErrorKind::UnexpectedEof
        {
            debug!(workspace = self.workspace, %error, "serving queries over a stream");
        }
    }

    async fn answer_stream(&self, stream: &mut TcpStream) -> io::Result<()> {
        let client = stream.peer_addr()?;
        loop {
            let query = timeout(STREAM_IDLE, read_framed(stream)).await??;
            let reply = match self.admit(&query, client, false) {
                Verdict::Ignore => return Ok(()),
                Verdict::Reply(reply) => reply,
                Verdict::Refuse(reply, looked) => {
                    Ring::wait(looked).await;
                    reply
                }
                Verdict::Ask(question, name, _permit) => {
                    self.resolve(&question, &name, MAX_ANSWER, true).await
                }
            };
            let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
            let framed = [&length.to_be_bytes()[..], &reply].concat();
            timeout(STREAM_IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn admit(&self, packet: &[u8], client: SocketAddr, udp: bool) -> Verdict {
        let question = match act(packet, self.rules.gateway(), |name| self.rules.service_address(name)) {
            Action::Ignore => return Verdict::Ignore,
            Action::Reply(reply) => return Verdict::Reply(reply),
            Action::Forward(question) => question,
        };
        // Over TCP nobody knows here which name server the client had in mind, so its program is not found.
        let name = match self.allowed(&question, udp.then_some(client)) {
            Ok(name) => name,
            Err((code, looked)) => {
                let reply = question.refusal(code);
                return match looked {
                    Some(looked) => Verdict::Refuse(reply, *looked),
                    None => Verdict::Reply(reply),
                };
            }
        };
        match Arc::clone(&self.queries).try_acquire_owned() {
            Ok(permit) => Verdict::Ask(question, name, permit),
            Err(_) => {
                if let Some(suppressed) = self.log.admit() {
                    warn!(
                        workspace = self.workspace,
                        suppressed, "query refused: {MAX_QUERIES} are waiting already"
                    );
                }
                Verdict::Reply(question.refusal(ResponseCode::ServFail))
            }
        }
    }

    /// The name that may be asked for. What is refused is not told to any server: a name can carry data out.
    fn allowed(
        &self,
        question: &Question,
        client: Option<SocketAddr>,
    ) -> Result<Host, (ResponseCode, Option<Box<Looked>>)> {
        let denied = |names: &[Host], why| {
            let (destination, protocol) = (None, Protocol::Dns);
            self.ring
                .look(&What { names, destination, client, protocol, request: None }, why)
                .ok()
                .map(Box::new)
        };
        let Ok(name) = Host::parse(&question.name()) else {
            let reason = "the name that was asked for is no host name";
            let why = why("host-name", reason, "ask for a name of letters, digits, '-' and '_'");
            return Err((ResponseCode::Refused, denied(&[], why)));
        };
        match self.rules.resolves(&name) {
            Ok(()) => Ok(name),
            Err(why) => Err((ResponseCode::NXDomain, denied(&[name], why))),
        }
    }

    async fn resolve(&self, question: &Question, name: &Host, limit: usize, stream: bool) -> Vec<u8> {
        match self.upstreams.ask(question, stream).await {
            Some(answer) => {
                let now = Instant::now();
                let addresses = answers::addresses(&answer);
                if question.is_for_ipv6() && !may_lead_on(&addresses, node::reaches) {
                    return question.refusal(ResponseCode::NoError);
                }
                for (address, ttl) in addresses {
                    self.pins.pin(name, address, ttl, now);
                }
                question.incoming(answer, limit)
            }
            None => {
                if let Some(suppressed) = self.log.admit() {
                    let name = name.as_str();
                    warn!(workspace = self.workspace, name, suppressed, "no name server answers");
                }
                question.refusal(ResponseCode::ServFail)
            }
        }
    }

    async fn failed(&self, error: &io::Error, doing: &str) {
        if let Some(suppressed) = self.log.admit() {
            warn!(workspace = self.workspace, %error, suppressed, "{doing}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the node has a way to one of these, or there are none. The gateway takes a connection before the node dials, so a client
/// that tries an address without a way is not refused but reset, and does not try the next one: it is not told of it.
fn may_lead_on(addresses: &[(IpAddr, Duration)], reaches: impl Fn(IpAddr) -> bool) -> bool {
    addresses.is_empty() || addresses.iter().take(MAX_WAYS).any(|(address, _)| reaches(*address))
}

enum Verdict {
    Ignore,
    Reply(Vec<u8>),
    /// When it is known who asked, or after a moment.
    Refuse(Vec<u8>, Looked),
    Ask(Question, Host, OwnedSemaphorePermit),
}

async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUERY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "query is too long"));
    }
    let mut packet = vec![0; length];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_address_with_a_way_is_enough_and_none_at_all_is_no_reason() {
        let list = |texts: &[&str]| -> Vec<(IpAddr, Duration)> {
            texts.iter().map(|text| (text.parse().unwrap(), Duration::ZERO)).collect()
        };
        let reaches = |address: IpAddr| address.to_string() == "2001:db8::1";
        assert!(may_lead_on(&[], reaches));
        assert!(may_lead_on(&list(&["2001:db8::2", "2001:db8::1"]), reaches));
        assert!(!may_lead_on(&list(&["2001:db8::2", "2001:db8::3"]), reaches));
    }
}
