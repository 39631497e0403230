//! Connections of clients.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1 as server, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{Shared, pass::Connection};

/// Connections at a time, of each address family; more wait to be accepted.
pub const MOST: usize = 256;
pub const MAX_HEAD: usize = 64 << 10;
pub const MAX_HEADERS: usize = 100;
/// For the head of a request, which is also how long an idle connection is kept.
const HEAD: Duration = Duration::from_secs(30);
/// After a failed accept, when descriptors have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the entry ends.
pub async fn accept(shared: Arc<Shared>, listener: TcpListener, entry: u16) {
    let room = Arc::new(Semaphore::new(MOST));
    let ended = shared.shutdown.clone();
    let accepting = async {
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => drop(tokio::spawn(one(shared.clone(), stream, peer, entry, permit))),
                Err(error) => {
                    tracing::warn!(%error, "the HTTP entry cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = ended.cancelled() => {}
    }
}

async fn one(
    shared: Arc<Shared>,
    stream: TcpStream,
    peer: SocketAddr,
    entry: u16,
    permit: OwnedSemaphorePermit,
) {
    let _ = stream.set_nodelay(true);
    let ended = shared.shutdown.clone();
    let connection = Connection::new(shared, entry, permit);
    let service = service_fn(|request| async { Ok::<_, hyper::Error>(connection.answer(request).await) });
    let mut builder = server::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    tokio::select! {
        served = &mut serving => if let Err(error) = served {
            tracing::debug!(%peer, %error, "a connection to the HTTP entry broke");
        },
        () = ended.cancelled() => {}
    }
}
