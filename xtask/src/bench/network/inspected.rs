//! What it costs to have a credential put on HTTPS requests: the broker ends TLS, changes the request, and speaks TLS to the server.
//!
//! ```text
//!  workspace ══ gateway ── broker ── the node's loopback: server
//!  namespace ════════════ veth ════════════════════════ server
//! ```
//!
//! The broker resolves bound hosts by the node's own resolvers, in which a benchmark has no names: so ours is a service of the
//! node. Our way has one veth pair less than the others, and the difference is a few microseconds. The server answers only
//! requests that carry the value, which our client does not have.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use cordium_tests::{Workspace, images, spec, tls::Authority, workspace::put_secret};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::json;

use super::{
    compare::{Compared, compare},
    ground::{Entry, Ground, SERVER_OF_PLAIN},
    latency::{attempts, judged},
    servers::{Listening, PATIENCE, provider},
    ways::{Named, Way, entry_of},
};
use crate::bench::{Bench, table::Row};

/// Of the node's loopback, for workspaces; and of the server on the veth pair.
pub const PORT: u16 = 5443;
const HOST: &str = "host.cordium.internal";
const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 253);
const VALUE: &str = "bench_16C7e42F292c6912E7710c838347Ae178B4a";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// What may be added to one request over a new connection, in microseconds.
const TARGET: f64 = 1000.0;
const CONNECTIONS: [usize; 2] = [1, 8];
const RAMP: Duration = Duration::from_millis(200);
const WINDOW: Duration = Duration::from_millis(500);

pub async fn rows(bench: &Bench, ground: &Ground) -> Result<Vec<Row>> {
    let authority = Authority::create(&bench.dir.join("tls"), &bench.node.user)?;
    let party = authority.issue(HOST, &bench.node.user)?;
    let root = std::fs::read_to_string(&party.ca)?;
    let config = party.server()?;
    let serve = move |stream| {
        let config = Arc::clone(&config);
        thread::spawn(move || drop(answer(stream, config)));
    };
    let _servers = [
        Listening::start(&Entry::open("/proc/self/ns/net".as_ref())?, PORT, serve.clone())?,
        Listening::start(&ground.outside.enter()?, PORT, serve)?,
    ];
    let (workspace, clients) = clients(bench, ground, &root).await?;
    let rows = compared(&clients, bench.rounds).await;
    drop(clients);
    workspace.delete().await?;
    rows
}

/// The two ways, and whom a client trusts there.
struct Clients {
    ways: [Named; 2],
    ours: Arc<ClientConfig>,
    plain: Arc<ClientConfig>,
}

impl Clients {
    fn of(&self, way: &Way) -> &Arc<ClientConfig> {
        if way.server == SERVER_OF_PLAIN { &self.plain } else { &self.ours }
    }
}

async fn clients(bench: &Bench, ground: &Ground, root: &str) -> Result<(Workspace, Clients)> {
    put_secret(&bench.clients, "bench", VALUE).await?;
    let network = json!({
        "egress": {"defaultAction": "DENY"},
        "extraRoots": [root],
        "credentials": [{"name": "bench", "fromSecret": "bench", "hosts": [HOST]}],
    });
    let rest = json!({"limit": {"memory": {"megabytes": 64}}, "runtime": {"network": network}});
    let spec = spec::with_image(&bench.registry.reference(images::BASE), rest);
    let workspace = Workspace::run(&bench.clients, "inspected", &spec).await?;
    let own = workspace.ok("cat \"$NODE_EXTRA_CA_CERTS\"").await?;
    let ours = Way { entry: entry_of(&workspace).await?, server: GATEWAY };
    let plain = Way { entry: ground.plain.enter()?, server: SERVER_OF_PLAIN };
    let ways = [Named::new("cordium", ours), Named::new("a veth pair", plain)];
    let clients = Clients { ways, ours: trusting(&own)?, plain: trusting(root)? };
    Ok((workspace, clients))
}

fn trusting(pem: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?).context("trusting an authority")?;
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

async fn compared(clients: &Clients, rounds: usize) -> Result<Vec<Row>> {
    let https = compare(&clients.ways, rounds, "µs", async |way: &Way| {
        attempts(way, || request(&mut connect(way, clients.of(way))?))
    });
    let mut rows = judged(&https.await, "one HTTPS request, new connection, inspected", TARGET)?;
    for count in CONNECTIONS {
        let rate = compare(&clients.ways, rounds, "requests/s", async |way: &Way| {
            Ok(vec![rate(way, clients.of(way), count).await?])
        });
        let compared: Compared = rate.await;
        let plural = if count == 1 { "" } else { "s" };
        let what = format!("(i) HTTPS requests over {count} kept connection{plural}, inspected");
        rows.push(compared.row(what, None, None)?);
    }
    Ok(rows)
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// To be called by a thread that has entered.
fn connect(way: &Way, config: &Arc<ClientConfig>) -> Result<Tls> {
    let stream = way.connect(PORT)?;
    stream.set_nodelay(true)?;
    let connection = ClientConnection::new(Arc::clone(config), HOST.try_into()?)?;
    Ok(StreamOwned::new(connection, stream))
}

fn request(stream: &mut Tls) -> Result<()> {
    // On the veth pair nobody puts the value on it.
    let own = if stream.sock.peer_addr()?.ip() == SERVER_OF_PLAIN {
        format!("Authorization: Bearer {VALUE}\r\n")
    } else {
        String::new()
    };
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {HOST}:{PORT}\r\n{own}\r\n").as_bytes())?;
    let mut answered = Vec::new();
    let mut block = [0; 4096];
    while !answered.ends_with(b"\r\n\r\nok") {
        let length = stream.read(&mut block).context("waiting for the answer")?;
        answered.extend_from_slice(&block[..length]);
        let expected = length > 0
            && answered.len() < block.len()
            && b"HTTP/1.1 200 OK"[..].starts_with(&answered[..answered.len().min(15)]);
        ensure!(expected, "an answer of somebody else: {}", String::from_utf8_lossy(&answered));
    }
    Ok(())
}

/// Requests answered in a second, one after the other on each of so many connections.
async fn rate(way: &Way, config: &Arc<ClientConfig>, count: usize) -> Result<f64> {
    let open = || (0..count).map(|_| connect(way, config)).collect::<Result<Vec<_>>>();
    let (answers, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers = Vec::new();
    for mut stream in way.entry.run(open)? {
        let (answers, ended) = (Arc::clone(&answers), Arc::clone(&ended));
        workers.push(thread::spawn(move || -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                request(&mut stream)?;
                answers.fetch_add(1, Ordering::Relaxed);
            }
            Ok(stream.sock.shutdown(Shutdown::Both)?)
        }));
    }
    tokio::time::sleep(RAMP).await;
    let (before, started) = (answers.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(WINDOW).await;
    let (number, time) = (answers.load(Ordering::Relaxed) - before, started.elapsed());
    ended.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.join().map_err(|_| anyhow!("a client panicked"))??;
    }
    Ok(number as f64 / time.as_secs_f64())
}

/// Answers requests that carry the value, until the client ends.
fn answer(stream: TcpStream, config: Arc<ServerConfig>) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, stream);
    let (mut head, mut block) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&block[..length]),
        }
        if head.ends_with(b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&head);
            ensure!(text.contains(VALUE), "a request without the value");
            stream.write_all(ANSWER)?;
            head.clear();
        }
        ensure!(head.len() < block.len(), "a request that does not end");
    }
}
