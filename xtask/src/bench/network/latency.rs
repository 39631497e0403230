//! What the gateway adds to a connect, and to one HTTPS request that it passes through.

use std::{
    io::{Read, Write},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, client::Resumption};

use super::{
    compare::{Compared, compare},
    servers::{ANSWER, HTTPS, NAME, Servers, provider},
    ways::{Named, Way},
};
use crate::bench::{
    samples::millis,
    table::{Row, Value},
};

/// Of one round.
const ATTEMPTS: usize = 25;
/// What may be added, in microseconds.
const TARGET: f64 = 200.0;

pub async fn rows(ways: &[Named], servers: &Servers, rounds: usize) -> Result<Vec<Row>> {
    let connect = compare(ways, rounds, "µs", async |way: &Way| attempts(way, || way.greet().map(drop)));
    let mut rows = judged(&connect.await, "TCP connect, to the server's first byte", TARGET)?;
    let client = client(servers)?;
    let https = compare(ways, rounds, "µs", async |way: &Way| attempts(way, || request(way, &client)));
    rows.extend(judged(&https.await, "one HTTPS request, new connection, passed through", TARGET)?);
    Ok(rows)
}

/// What it takes on each way, and what the gateway's way takes above the veth pair's.
pub fn judged(compared: &Compared, what: &str, most: f64) -> Result<Vec<Row>> {
    let ours = compared.ours()?;
    let added = Value { number: ours.number - compared.veth()?.number, ..ours };
    Ok(vec![
        compared.row(format!("(i) {what}"), None, None)?,
        Row {
            what: format!("(i) {what}: added to a veth pair's"),
            ours: added,
            peers: Vec::new(),
            target: Some(most),
        },
    ])
}

/// In microseconds, each.
pub fn attempts(way: &Way, attempt: impl Fn() -> Result<()> + Sync) -> Result<Vec<f64>> {
    way.entry.run(|| {
        let timed = |_| {
            let started = Instant::now();
            attempt()?;
            Ok(millis(started.elapsed()) * 1e3)
        };
        (0..ATTEMPTS).map(timed).collect()
    })
}

fn client(servers: &Servers) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(servers.certificate.clone()).context("trusting the server")?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn request(way: &Way, client: &Arc<ClientConfig>) -> Result<()> {
    let stream = way.connect(HTTPS)?;
    stream.set_nodelay(true)?;
    let connection = ClientConnection::new(Arc::clone(client), NAME.try_into()?)?;
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())?;
    let mut answer = vec![0; ANSWER.len()];
    stream.read_exact(&mut answer).context("waiting for the answer")?;
    ensure!(answer == ANSWER, "an answer of somebody else: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
