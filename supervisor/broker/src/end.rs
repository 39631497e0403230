//! A connection that is reset when dropped, unless the flow came to its proper end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::denials::{Denial, refuse};
use crate::splice::Activity;

pub(crate) struct End {
    pub stream: TcpStream,
    proper: bool,
    activity: Option<Arc<Activity>>,
}

impl End {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, proper: false, activity: None }
    }

    /// Notes whatever is read or written through it.
    pub(crate) fn noting(mut self, activity: &Arc<Activity>) -> Self {
        self.activity = Some(Arc::clone(activity));
        self
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.peer_addr().ok()
    }

    pub(crate) fn close(mut self) {
        self.proper = true;
    }

    /// Tells the client why, where that is possible.
    pub(crate) async fn refuse(mut self, denial: &Denial, has_spoken: bool) {
        self.proper = refuse(&mut self.stream, denial, has_spoken).await;
    }

    fn touch(&self) {
        if let Some(activity) = &self.activity {
            activity.touch();
        }
    }
}

/// From now on, dropping the stream sends a reset.
pub(crate) fn reset(stream: &TcpStream) {
    // Without the option the peer sees an ordinary end instead; there is nothing better to do.
    let _ = stream.set_zero_linger();
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.proper {
            reset(&self.stream);
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.touch();
        Poll::Ready(read)
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.touch();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        self.proper |= ended.is_ok();
        Poll::Ready(ended)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        self.touch();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
