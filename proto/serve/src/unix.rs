//! A unix socket: made for this process's user only, and each peer is asked who it is.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use futures::Stream;
use tokio::net::{UnixListener, UnixStream};

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A step failed.
    #[error("{doing} the socket {}: {source}", path.display())]
    Step {
        /// What was being done.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("another process serves on {}; end it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// What is there was not made by a server.
    #[error("{} is not a socket; remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
}

/// Listens on `path`. A socket that nobody answers on, as a killed process leaves it, is replaced.
pub async fn bind(path: &Path) -> Result<UnixListener, ListenError> {
    let fail = |doing| move |source| ListenError::Step { doing, path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail("looking at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(fail("removing"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => return Err(ListenError::InUse(path.to_owned())),
        },
    }
    // Whoever connects between these two steps is still asked who it is.
    let listener = UnixListener::bind(path).map_err(fail("making"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail("protecting"))?;
    Ok(listener)
}

/// Connections whose peer is this process's user or root. Others are closed at once.
pub fn own_peers(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> + Send {
    let own = rustix::process::geteuid().as_raw();
    futures::stream::unfold(listener, move |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match stream.peer_cred() {
                    Ok(peer) if may_connect(peer.uid(), own) => return Some((Ok(stream), listener)),
                    Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a connection of another user"),
                    Err(error) => tracing::warn!(%error, "refused a connection: its peer is not known"),
                },
                Err(error) => crate::not_accepted(&error).await,
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
        drop(bind(&path).await.unwrap());
        let listener = bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path).await, Err(ListenError::InUse(_))), "it is served");
        let mut peers = Box::pin(own_peers(listener));
        let _client = UnixStream::connect(&path).await.unwrap();
        assert!(peers.next().await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(bind(&path).await, Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
