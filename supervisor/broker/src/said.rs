//! What the client of a flow has said about the host that it wants.

use std::io;
use std::time::Duration;

use cordium_egress::{Host, Said};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::denials::Why;
use crate::first::{self, Heard};
use crate::peek::peek_until;

/// For a first message that has begun.
const WHOLE: Duration = Duration::from_secs(10);

/// The record type that a ClientHello comes in.
const HANDSHAKE: u8 = 0x16;

/// What a flow is decided by, and decided by again when the policy changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Name(Host),
    /// No name that can be believed, and what is wrong.
    Unnamed(&'static str),
    /// A protocol that says no name.
    Other,
    /// The flow was let through before it said anything.
    Unasked,
}

/// Waits for the client's first message and leaves it where it is.
pub(crate) async fn hear(client: &TcpStream) -> io::Result<Spoken> {
    // A client that waits for its server may take as long as it likes.
    peek_until(client, |bytes, ended| (ended || !bytes.is_empty()).then_some(())).await?;
    let whole = peek_until(client, |bytes, ended| match first::hear(bytes) {
        Heard::Incomplete if ended => Some(if bytes.is_empty() {
            Spoken::Other
        } else {
            Spoken::Unnamed("the connection ended within its first message")
        }),
        Heard::Incomplete => None,
        heard => Some(heard.into()),
    });
    timeout(WHOLE, whole)
        .await
        .unwrap_or(Ok(Spoken::Unnamed("the first message of the connection is not complete after 10 s")))
}

/// Whether the client begins a TLS handshake; waits for its first byte.
pub(crate) async fn begins_tls(client: &TcpStream) -> io::Result<bool> {
    peek_until(client, |bytes, ended| match bytes.first() {
        None => ended.then_some(false),
        Some(first) => Some(*first == HANDSHAKE),
    })
    .await
}

impl From<Heard> for Spoken {
    fn from(heard: Heard) -> Self {
        match heard {
            Heard::Refused(reason) => Self::Unnamed(reason),
            Heard::Other | Heard::Incomplete => Self::Other,
            Heard::Tls(_) | Heard::Http(_) => match heard.name().map(Host::parse) {
                Some(Ok(name)) => Self::Name(name),
                _ => Self::Unnamed("the name that the connection says is no host name"),
            },
        }
    }
}

impl Spoken {
    pub(crate) fn said(&self) -> Said<'_> {
        match self {
            Self::Name(name) => Said::Name(name),
            Self::Unnamed(_) => Said::Unnamed,
            Self::Other => Said::Other,
            Self::Unasked => Said::Unasked,
        }
    }

    pub(crate) fn name(&self) -> Option<&Host> {
        match self {
            Self::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Says what is wrong with the first message, where that is why.
    pub(crate) fn explain(&self, why: Why) -> Why {
        match self {
            Self::Unnamed(reason) if why.rule == "host-name" => Why { reason, ..why },
            _ => why,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn heard(pieces: &[&[u8]], end: bool) -> Spoken {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        let speak = async {
            for piece in pieces {
                near.write_all(piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if end {
                near.shutdown().await.unwrap();
            }
        };
        tokio::join!(hear(&far), speak).0.unwrap()
    }

    #[tokio::test]
    async fn a_request_in_pieces_is_heard_whole() {
        let pieces = [&b"GET / HT"[..], b"TP/1.1\r\nHost: A.exa", b"mple.\r\n\r", b"\nbody"];
        assert_eq!(heard(&pieces, false).await, Spoken::Name(Host::parse("a.example").unwrap()));
    }

    #[tokio::test]
    async fn an_end_before_or_within_the_first_message_is_told_apart() {
        assert_eq!(heard(&[], true).await, Spoken::Other);
        assert!(
            matches!(heard(&[b"GET / HT"], true).await, Spoken::Unnamed(reason) if reason.contains("ended"))
        );
        assert!(
            matches!(heard(&[b"GET / HTTP/1.1\r\n\r\n"], true).await, Spoken::Unnamed(reason) if reason.contains("Host"))
        );
        assert_eq!(heard(&[b"PING\r\n"], true).await, Spoken::Other);
    }
}
