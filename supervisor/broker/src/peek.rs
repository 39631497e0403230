//! Looks at the first bytes of a connection and leaves them where they are.

use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::first::MOST;

/// Shows what has come so far, and again whenever more has come or the stream has ended, until `seen` makes something of it.
/// It is asked no more once the stream has ended or [`MOST`] bytes are there; then it is an error if it makes nothing of them.
pub(crate) async fn peek_until<T>(
    stream: &TcpStream,
    mut seen: impl FnMut(&[u8], bool) -> Option<T>,
) -> io::Result<T> {
    let mut before = None;
    // What an earlier look has left there is no news to the runtime: the first look waits for none.
    let (mut first, mut ended) = (true, false);
    loop {
        if !first {
            ended = stream.ready(Interest::READABLE).await?.is_read_closed();
        }
        let mut look = || {
            // Not kept while waiting: there may be thousands of flows.
            let mut bytes = vec![0; MOST];
            let count = recv(stream, &mut bytes[..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0;
            let ended = ended || count == 0;
            // What is there already keeps the socket readable: only a change is news.
            if before == Some(count) && !ended {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            before = Some(count);
            Ok((seen(&bytes[..count.min(MOST)], ended), ended || count >= MOST))
        };
        let result = if first { look() } else { stream.try_io(Interest::READABLE, look) };
        first = false;
        match result {
            Ok((Some(made), _)) => return Ok(made),
            Ok((None, true)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((None, false)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn pieces_are_seen_as_they_come_and_stay_to_be_read() {
        let (mut near, mut far) = pair().await;
        let write = async {
            for piece in [b"one ", b"two ", b"3..."] {
                near.write_all(piece).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let mut asked = 0;
        let look = peek_until(&far, |bytes, _| {
            asked += 1;
            bytes.ends_with(b"3...").then_some(bytes.len())
        });
        let (length, ()) = tokio::join!(look, write);
        assert_eq!(length.unwrap(), 12);
        assert!(asked <= 4, "no busy waiting: asked {asked} times");
        let mut all = [0; 12];
        far.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"one two 3...");
    }

    #[tokio::test]
    async fn what_an_earlier_look_has_seen_is_seen_again() {
        let (mut near, far) = pair().await;
        near.write_all(b"x").await.unwrap();
        let moment = std::time::Duration::from_millis(50);
        let waiting = tokio::time::timeout(moment, peek_until(&far, |_, _| None::<()>)).await;
        assert!(waiting.is_err());
        assert_eq!(peek_until(&far, |bytes, _| Some(bytes.to_vec())).await.unwrap(), b"x");
    }

    #[tokio::test]
    async fn the_end_and_the_bound_are_told() {
        let (mut near, far) = pair().await;
        near.write_all(b"x").await.unwrap();
        near.shutdown().await.unwrap();
        let ended = peek_until(&far, |bytes, ended| ended.then(|| bytes.to_vec())).await.unwrap();
        assert_eq!(ended, b"x");
        let (mut near, far) = pair().await;
        let flood = tokio::spawn(async move { near.write_all(&[7; 4 * MOST]).await.map(|()| near) });
        let error = peek_until(&far, |_, _| None::<()>).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(far);
        drop(flood.await);
    }
}
