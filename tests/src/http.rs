//! A small blocking HTTP/1.1 server, with TLS or without: one thread and one request per connection. Enough to put `git http-backend`
//! behind a port, and to play a registry that misbehaves.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Heads above this are refused.
const MAX_HEAD: usize = 16 << 10;
/// Bodies above this are refused.
const MAX_BODY: usize = 64 << 20;
/// A peer that says nothing for so long is dropped.
const IDLE: Duration = Duration::from_secs(30);

pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A GET without headers, for tests of handlers.
    pub fn get(path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.to_owned(),
            query: String::new(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What a handler does with the connection.
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    /// The head promises `length` bytes, `body` has fewer: the connection closes half way.
    CutOff {
        length: usize,
        body: Vec<u8>,
    },
    /// Nothing, until the server ends.
    Silence,
}

impl Reply {
    pub fn status(status: u16, text: &str) -> Self {
        Self::Answer { status, headers: Vec::new(), body: text.as_bytes().to_vec() }
    }
}

pub type Handler = dyn Fn(&Request) -> Result<Reply> + Send + Sync;

/// A server on a free port of 127.0.0.1. Dropping it closes the port.
pub struct Server {
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(handler: Arc<Handler>) -> Result<Self> {
        Self::start_with(handler, None)
    }

    pub fn start_tls(handler: Arc<Handler>, config: Arc<ServerConfig>) -> Result<Self> {
        Self::start_with(handler, Some(config))
    }

    fn start_with(handler: Arc<Handler>, tls: Option<Arc<ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listening on loopback")?;
        let address = listener.local_addr()?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let acceptor = thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                let (handler, stop, tls) = (Arc::clone(&handler), Arc::clone(&stop), tls.clone());
                thread::spawn(move || {
                    // A peer that goes away is no failure of the server.
                    let _ = match tls {
                        Some(config) => serve_tls(&stream, config, &*handler, &stop),
                        None => serve(&stream, &stream, &*handler, &stop)
                            .and_then(|()| Ok(stream.shutdown(Shutdown::Write)?)),
                    };
                });
            }
        });
        Ok(Self { address, stopping, acceptor: Some(acceptor) })
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn serve_tls(
    stream: &TcpStream,
    config: Arc<ServerConfig>,
    handler: &Handler,
    stopping: &AtomicBool,
) -> Result<()> {
    let mut tls = StreamOwned::new(ServerConnection::new(config)?, stream);
    serve(&mut tls, stream, handler, stopping)?;
    tls.conn.send_close_notify();
    tls.flush()?;
    stream.shutdown(Shutdown::Write)?;
    Ok(())
}

/// Talks through `over`, which is `stream` or what goes through it.
fn serve(
    mut over: impl Read + Write,
    stream: &TcpStream,
    handler: &Handler,
    stopping: &AtomicBool,
) -> Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    let mut reader = BufReader::new(&mut over);
    let Some(request) = read_request(&mut reader)? else { return Ok(()) };
    let reply = handler(&request).unwrap_or_else(|error| Reply::status(500, &format!("{error:#}\n")));
    let (head, body) = match reply {
        Reply::Answer { status, headers, body } => (head(status, &headers, body.len()), body),
        Reply::CutOff { length, body } => (head(200, &[], length), body),
        Reply::Silence => return keep_silent(stream, stopping),
    };
    over.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        over.write_all(&body)?;
    }
    Ok(over.flush()?)
}

/// Holds the connection until the peer or the server goes away.
fn keep_silent(stream: &TcpStream, stopping: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut byte = [0];
    while !stopping.load(Ordering::SeqCst) {
        match (&*stream).read(&mut byte) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn head(status: u16, headers: &[(String, String)], length: usize) -> String {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (key, value) in headers {
        head.push_str(&format!("{key}: {value}\r\n"));
    }
    head + "\r\n"
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut text = Vec::new();
    loop {
        let before = text.len();
        reader.by_ref().take((MAX_HEAD - before) as u64).read_until(b'\n', &mut text)?;
        if text.len() == before {
            return Ok(None);
        }
        if text.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut slots);
    if !parsed.parse(&text).context("parsing the request head")?.is_complete() {
        bail!("request head is not complete");
    }
    let target = parsed.path.unwrap_or("/");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: parsed.method.unwrap_or("GET").to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: parsed
            .headers
            .iter()
            .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
            .collect(),
        body: Vec::new(),
    };
    request.body = read_body(reader, &request)?;
    Ok(Some(request))
}

fn read_body(reader: &mut impl BufRead, request: &Request) -> Result<Vec<u8>> {
    if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return read_chunks(reader);
    }
    let length: usize = request.header("content-length").unwrap_or("0").parse().context("content-length")?;
    if length > MAX_BODY {
        bail!("body of {length} bytes is too large");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.by_ref().take(64).read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).context("length of a chunk")?;
        if body.len() + length > MAX_BODY {
            bail!("body is too large");
        }
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ask(port: u16, request: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_with_what_the_handler_saw() {
        let server = Server::start(Arc::new(|request: &Request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            Ok(Reply::status(201, &format!("{} {} {} {body}", request.method, request.path, request.query)))
        }))
        .unwrap();
        let answer = ask(server.port(), "POST /a?b=c HTTP/1.1\r\nContent-Length: 3\r\n\r\nxyz");
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\nPOST /a b=c xyz"), "{answer}");
        let chunked = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
        assert!(ask(server.port(), chunked).ends_with("POST /a  hi"));
    }

    #[test]
    fn cuts_off_half_way() {
        let server =
            Server::start(Arc::new(|_: &Request| Ok(Reply::CutOff { length: 10, body: b"12345".to_vec() })))
                .unwrap();
        let answer = ask(server.port(), "GET / HTTP/1.1\r\n\r\n");
        assert!(answer.contains("Content-Length: 10") && answer.ends_with("\r\n\r\n12345"), "{answer}");
    }
}
