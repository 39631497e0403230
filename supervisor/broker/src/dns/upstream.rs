//! Asks the node's resolvers: one fresh socket and random port a query, so that a forged answer has to guess both.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cordium_egress::Host;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tracing::warn;

use super::answers;
use super::message::{Question, is_truncated, rcode};

pub(crate) const RESOLV_CONF: &str = "/etc/resolv.conf";
const MAX_SERVERS: usize = 3;
const ROUNDS: usize = 2;
const ATTEMPT: Duration = Duration::from_millis(1500);
/// All attempts together.
const TOTAL: Duration = Duration::from_secs(8);
const CHECK_EVERY: Duration = Duration::from_secs(2);
const MAX_PACKET: usize = 65_535;

/// The name servers to ask, in order.
pub(crate) struct Upstreams {
    fixed: Vec<SocketAddr>,
    seen: Mutex<Option<Seen>>,
}

struct Seen {
    checked: Instant,
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    pub(crate) fn new(fixed: Vec<SocketAddr>) -> Self {
        Self { fixed, seen: Mutex::new(None) }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.clone();
        }
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.as_ref().filter(|seen| now.duration_since(seen.checked) < CHECK_EVERY) {
            return seen.servers.clone();
        }
        let path = Path::new(RESOLV_CONF);
        let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        let servers = match seen.take() {
            Some(old) if old.modified == modified => old.servers,
            _ => std::fs::read(path).map(|text| parse(&text)).unwrap_or_else(|error| {
                warn!(%error, path = RESOLV_CONF, "reading the node's name servers");
                Vec::new()
            }),
        };
        *seen = Some(Seen { checked: now, modified, servers: servers.clone() });
        servers
    }

    /// The addresses of a name that the broker itself looks for.
    pub(crate) async fn addresses(&self, host: &Host, kind: RecordType) -> Vec<IpAddr> {
        let Some(question) = Question::about(host, kind) else { return Vec::new() };
        let answer = self.ask(&question, true).await.unwrap_or_default();
        answers::addresses(&answer).into_iter().map(|(address, _)| address).collect()
    }

    /// The answer's bytes, under the id of our own query. `stream` is for a client that takes answers of any length.
    pub(crate) async fn ask(&self, question: &Question, stream: bool) -> Option<Vec<u8>> {
        timeout(TOTAL, self.try_all(question, stream)).await.ok().flatten()
    }

    async fn try_all(&self, question: &Question, stream: bool) -> Option<Vec<u8>> {
        let servers = self.servers();
        let mut unhelpful = None;
        for _ in 0..ROUNDS {
            let mut silent = false;
            for server in &servers {
                match timeout(ATTEMPT, ask_one(*server, question, stream)).await {
                    Ok(Ok(answer)) if is_final(&answer) => return Some(answer),
                    Ok(Ok(answer)) => unhelpful = Some(answer),
                    // Nobody is there: asking again does not help.
                    Ok(Err(_)) => {}
                    Err(_) => silent = true,
                }
            }
            if !silent {
                break;
            }
        }
        unhelpful
    }
}

/// Whether another server need not be asked.
fn is_final(answer: &[u8]) -> bool {
    let code = ResponseCode::from_low(rcode(answer));
    !matches!(code, ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp)
}

/// The servers of a `resolv.conf`; without any, the one on this node, as the C library has it.
fn parse(text: &[u8]) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = hickory_resolver::system_conf::parse_resolv_conf(text)
        .map(|(config, _)| {
            config.name_servers().iter().map(|server| SocketAddr::new(server.ip, 53)).collect()
        })
        .unwrap_or_default();
    if servers.is_empty() {
        return vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53)];
    }
    servers.into_iter().take(MAX_SERVERS).collect()
}

async fn ask_one(server: SocketAddr, question: &Question, stream: bool) -> io::Result<Vec<u8>> {
    let answer = ask_udp(server, question).await?;
    if stream && is_truncated(&answer) { ask_tcp(server, question).await } else { Ok(answer) }
}

async fn ask_udp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let any =
        if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let (id, query) = question.outgoing().ok_or(io::ErrorKind::InvalidInput)?;
    socket.send(&query).await?;
    let mut packet = vec![0; 4096];
    loop {
        let length = socket.recv(&mut packet).await?;
        if question.is_answered_by(id, &packet[..length]) {
            packet.truncate(length);
            return Ok(packet);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &Question) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (id, query) = question.outgoing().ok_or(io::ErrorKind::InvalidInput)?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], &query].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut packet = vec![0; length.min(MAX_PACKET)];
    stream.read_exact(&mut packet).await?;
    if question.is_answered_by(id, &packet) { Ok(packet) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_resolv_conf_in_order_and_at_most_three() {
        let text = b"# x\nsearch a.example\nnameserver 10.0.0.2\nnameserver fd00::53\nnameserver 9.9.9.9\nnameserver 1.1.1.1\n";
        let expected: Vec<SocketAddr> =
            ["10.0.0.2:53", "[fd00::53]:53", "9.9.9.9:53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn no_servers_means_the_node_itself() {
        assert_eq!(parse(b"search example.com\n"), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(parse(b""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
