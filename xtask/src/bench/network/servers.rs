//! What the clients talk to.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use cordium_tests::process::until;
use nix::sys::socket::{Shutdown, shutdown};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer},
};

use super::ground::{Entry, Namespace};

/// Takes all bytes.
pub const SINK: u16 = 5001;
/// Sends bytes without end.
pub const SOURCE: u16 = 5002;
/// Sends one byte, and ends.
pub const GREETING: u16 = 5003;
pub const HTTPS: u16 = 443;
/// Who the HTTPS server is.
pub const NAME: &str = "server.example";
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// For everything that waits for the other side.
pub const PATIENCE: Duration = Duration::from_secs(10);
const BLOCK: usize = 256 << 10;

pub struct Servers {
    /// What `SINK` has taken.
    pub taken: Arc<AtomicU64>,
    pub certificate: CertificateDer<'static>,
    /// Streams that are still open.
    open: Arc<AtomicUsize>,
    _listening: Vec<Listening>,
}

impl Servers {
    pub fn start(outside: &Namespace) -> Result<Self> {
        let entry = outside.enter()?;
        let (taken, open) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&taken);
        let sink = in_threads(&open, move |stream| take(stream, &count));
        let source = in_threads(&open, give);
        let (certificate, config) = identity()?;
        // In the acceptor's own thread: starting another would be part of what is measured.
        let greeting = |mut stream: TcpStream| drop(stream.write_all(b"!"));
        let https = move |stream| drop(answer(stream, &config));
        let _listening = vec![
            Listening::start(&entry, SINK, sink)?,
            Listening::start(&entry, SOURCE, source)?,
            Listening::start(&entry, GREETING, greeting)?,
            Listening::start(&entry, HTTPS, https)?,
        ];
        Ok(Self { taken, certificate, open, _listening })
    }

    /// Waits for the end of all streams.
    pub fn settle(&self) -> Result<()> {
        let settled = || Ok((self.open.load(Ordering::SeqCst) == 0).then_some(()));
        until("end of all streams", PATIENCE, settled)
    }
}

/// Takes what comes until it ends.
pub fn take(mut stream: TcpStream, count: &AtomicU64) {
    let mut block = vec![0; BLOCK];
    while let Ok(length @ 1..) = stream.read(&mut block) {
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Sends until the other side ends it.
pub fn give(mut stream: TcpStream) {
    let block = vec![0; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn in_threads(
    open: &Arc<AtomicUsize>,
    serve: impl Fn(TcpStream) + Clone + Send + 'static,
) -> impl Fn(TcpStream) + Send + 'static {
    let open = Arc::clone(open);
    move |stream| {
        let (open, serve) = (Arc::clone(&open), serve.clone());
        open.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || {
            serve(stream);
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// An answer to one request, whatever it is.
fn answer(stream: TcpStream, config: &Arc<ServerConfig>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(config))?, stream);
    let (mut head, mut block) = (Vec::new(), [0; 4096]);
    while !head.ends_with(b"\r\n\r\n") && head.len() < block.len() {
        match stream.read(&mut block)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&block[..length]),
        }
    }
    Ok(stream.write_all(ANSWER)?)
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn identity() -> Result<(CertificateDer<'static>, Arc<ServerConfig>)> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("making a certificate")?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)?;
    // Every request is a stranger's.
    config.send_tls13_tickets = 0;
    Ok((certificate, Arc::new(config)))
}

/// One port of the server's. Dropping it closes the port.
pub struct Listening {
    listener: TcpListener,
    acceptor: Option<JoinHandle<()>>,
}

impl Listening {
    pub fn start(entry: &Entry, port: u16, serve: impl Fn(TcpStream) + Send + 'static) -> Result<Self> {
        let bind = || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        let listener = entry.run(|| bind().with_context(|| format!("listening on port {port}")))?;
        let accepting = listener.try_clone()?;
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let bounded = stream
                    .set_read_timeout(Some(PATIENCE))
                    .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
                if bounded.is_ok() {
                    serve(stream);
                }
            }
        });
        Ok(Self { listener, acceptor: Some(acceptor) })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Wakes the acceptor with an error.
        let woken = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let (Ok(()), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
    }
}
