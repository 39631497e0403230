//! The server's side of an inspected connection, over HTTP/1.1 or HTTP/2.

use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::answer::Body;
use super::tls::Speaks;
use super::{MAX_HEAD, MAX_HEADERS, SEND_BUFFER, WINDOW};
use crate::denials::Denial;

/// Where requests go.
#[derive(Clone)]
pub(super) enum Upstream {
    Http1(Arc<Mutex<http1::SendRequest<Body>>>),
    Http2(http2::SendRequest<Body>),
    /// The server was not reached: each request is told why.
    None(Arc<Denial>),
}

/// Moves the bytes of a connection; ends when it ends.
pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

pub(super) async fn open<S>(stream: S, speaks: Speaks) -> hyper::Result<(Upstream, Driver)>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let io = TokioIo::new(stream);
    match speaks {
        Speaks::Http1 => {
            let (sender, connection) =
                http1::Builder::new().max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS).handshake(io).await?;
            Ok((Upstream::Http1(Arc::new(Mutex::new(sender))), Box::pin(connection.with_upgrades())))
        }
        Speaks::Http2 => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .max_send_buf_size(SEND_BUFFER)
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW);
            let (sender, connection) = builder.handshake(io).await?;
            Ok((Upstream::Http2(sender), Box::pin(connection)))
        }
    }
}

impl Upstream {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Unsent> {
        match self {
            Self::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(Unsent::Lost)?;
                let answer = sender.send_request(request);
                answer.await.map_err(Unsent::Lost)
            }
            Self::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await.map_err(Unsent::Lost)?;
                sender.send_request(request).await.map_err(Unsent::Lost)
            }
            Self::None(denial) => Err(Unsent::Unreached(Arc::clone(denial))),
        }
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unsent {
    Lost(hyper::Error),
    Unreached(Arc<Denial>),
}
