//! The unix socket: made for the supervisor's user only, and each peer is asked who it is.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::Stream;
use tokio::net::{UnixListener, UnixStream};

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the socket {}: {source}", path.display())]
pub struct ListenError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Listens on `path`. What an earlier supervisor left there is removed: the caller holds the lock of the directory.
pub fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |doing| move |source| ListenError { doing, path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail("removing")(error)),
        _ => {}
    }
    // The process's umask keeps others away between these two steps.
    let listener = UnixListener::bind(path).map_err(fail("making"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail("protecting"))?;
    Ok(listener)
}

/// Connections whose peer is this process's user or root. Others are closed at once.
pub fn own_peers(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> + Send {
    let own = rustix::process::getuid().as_raw();
    futures::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if may_connect(peer.uid(), own) => return Some((Ok(stream), listener)),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a connection of another user"),
                    Err(error) => tracing::warn!(%error, "refused a connection: its peer is not known"),
                },
                Err(error) => {
                    // Mostly that there are no descriptors left: they come back when connections end.
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    })
}

fn may_connect(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::StreamExt as _;

    #[test]
    fn only_the_own_user_and_root_may_connect() {
        assert!(may_connect(1000, 1000) && may_connect(0, 1000));
        assert!(!may_connect(1001, 1000) && !may_connect(1000, 0));
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_new_one_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(bind(&path).unwrap());
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut peers = Box::pin(own_peers(listener));
        let _client = UnixStream::connect(&path).await.unwrap();
        assert!(peers.next().await.unwrap().is_ok());
    }
}
