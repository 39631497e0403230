//! TCP, for peers on other machines.

use std::io;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};

/// Connections as they come, without delay for small messages.
pub fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> + Send {
    futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "setting a connection up");
                    }
                    return Some((Ok(stream), listener));
                }
                Err(error) => crate::not_accepted(&error).await,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn a_connection_is_handed_on_without_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Box::pin(connections(listener));
        let _client = TcpStream::connect(address).await.unwrap();
        assert!(connections.next().await.unwrap().unwrap().nodelay().unwrap());
    }
}
