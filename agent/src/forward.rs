//! One TCP connection to a port of the workspace, for somebody outside it.
//!
//! Each side's end reaches the other as such: an end of the data, or a reset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::BytesMut;
use cordium_proto::v1::{ForwardEof, ForwardRequest, ForwardResponse, forward_request, forward_response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Connections at a time: they must leave descriptors for everything else.
const MOST: usize = 512;
const CONNECT: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 << 10;

static ROOM: Semaphore = Semaphore::const_new(MOST);

type Out = mpsc::Sender<Result<ForwardResponse, Status>>;

/// An open connection, counted.
pub struct Forward {
    stream: TcpStream,
    _room: SemaphorePermit<'static>,
}

impl Forward {
    /// Connects to what listens on the workspace's loopback, by IPv4 or else IPv6.
    pub async fn open(port: u32) -> Result<Self, Status> {
        let port = u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
            Status::invalid_argument(format!("port: was {port}; allowed: a whole number from 1 to 65535"))
        })?;
        let room = ROOM.try_acquire().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MOST} connections are forwarded into this workspace already"
            ))
        })?;
        let mut refused = None;
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            match timeout(CONNECT, TcpStream::connect((address, port))).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(Self { stream, _room: room });
                }
                // The first reason counts: many a workspace has no IPv6.
                Ok(Err(error)) => _ = refused.get_or_insert(error.to_string()),
                Err(_) => _ = refused.get_or_insert("it does not answer".to_owned()),
            }
        }
        let reason = refused.unwrap_or_default();
        Err(Status::failed_precondition(format!("nothing serves port {port} inside: {reason}")))
    }

    /// Copies both ways until both have ended, or one breaks off.
    pub async fn drive(self, requests: Streaming<ForwardRequest>, out: Out) {
        let Self { mut stream, _room } = self;
        let (mut read, mut write) = stream.split();
        let both = async { tokio::try_join!(inwards(requests, &mut write), outwards(&mut read, &out)) };
        let ended = tokio::select! {
            ended = both => ended.map(|_| ()),
            () = out.closed() => Err(Broken::Client),
        };
        match ended {
            Ok(()) => {}
            Err(Broken::Client) => reset(&stream),
            Err(Broken::Inside(error)) => {
                reset(&stream);
                let status = Status::aborted(format!("the connection inside the workspace broke: {error}"));
                // Told if the client still listens.
                let _ = out.send(Err(status)).await;
            }
        }
    }
}

enum Broken {
    /// Whoever asked for the connection has gone.
    Client,
    Inside(std::io::Error),
}

async fn inwards(
    mut requests: Streaming<ForwardRequest>,
    write: &mut tokio::net::tcp::WriteHalf<'_>,
) -> Result<(), Broken> {
    use forward_request::Message;
    loop {
        match requests.message().await.ok().flatten().and_then(|request| request.message) {
            Some(Message::Data(data)) => write.write_all(&data).await.map_err(Broken::Inside)?,
            Some(Message::Eof(_)) => return write.shutdown().await.map_err(Broken::Inside),
            // It has told its port already.
            Some(Message::Start(_)) => {}
            None => return Err(Broken::Client),
        }
    }
}

async fn outwards(read: &mut tokio::net::tcp::ReadHalf<'_>, out: &Out) -> Result<(), Broken> {
    use forward_response::Message;
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let message = match read.read_buf(&mut chunk).await.map_err(Broken::Inside)? {
            0 => Message::Eof(ForwardEof {}),
            _ => Message::Data(chunk.freeze()),
        };
        let last = matches!(message, Message::Eof(_));
        out.send(Ok(ForwardResponse { message: Some(message) })).await.map_err(|_| Broken::Client)?;
        if last {
            return Ok(());
        }
    }
}

/// From now on, dropping the stream sends a reset.
fn reset(stream: &TcpStream) {
    // Without the option the peer sees an ordinary end instead; there is nothing better to do.
    let _ = stream.set_zero_linger();
}
