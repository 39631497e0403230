//! Listeners: a unix socket for our own user, or TCP for clients with a certificate.

use std::{
    io::ErrorKind,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::Path,
    pin::Pin,
};

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::server::TcpIncoming;

use super::Options;

pub enum Listener {
    Unix(Pin<Box<dyn Stream<Item = std::io::Result<UnixStream>> + Send>>),
    Tcp(TcpIncoming),
}

pub async fn bind(options: &Options) -> anyhow::Result<Listener> {
    let address = options.listen.as_str();
    if let Some(path) = address.strip_prefix("unix:") {
        if options.tls_cert.is_some() {
            bail!("--listen {address}: a unix socket has no TLS; leave the --tls-* flags out");
        }
        return unix(Path::new(path)).await.with_context(|| format!("could not listen on {address}"));
    }
    if options.tls_cert.is_none() {
        bail!("--listen {address}: TCP needs --tls-cert, --tls-key and --tls-client-ca, or use unix:PATH");
    }
    let resolved = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("--listen {address}: allowed: unix:PATH or HOST:PORT"))?
        .next()
        .with_context(|| format!("--listen {address}: the name has no address"))?;
    let incoming = TcpIncoming::bind(resolved).with_context(|| format!("could not listen on {resolved}"))?;
    Ok(Listener::Tcp(incoming.with_nodelay(Some(true))))
}

async fn unix(path: &Path) -> anyhow::Result<Listener> {
    remove_stale(path).await?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let own = nix::unistd::geteuid().as_raw();
    let admitted = UnixListenerStream::new(listener).filter(move |connection| {
        let refused = connection.as_ref().ok().and_then(|stream| stranger(stream, own));
        if let Some(who) = &refused {
            tracing::warn!(peer = who, "refused a connection from another user");
        }
        std::future::ready(refused.is_none())
    });
    Ok(Listener::Unix(Box::pin(admitted)))
}

/// Who it is, unless it is our own user or root.
fn stranger(stream: &UnixStream, own: u32) -> Option<String> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => None,
        Ok(peer) => Some(format!("uid {}", peer.uid())),
        Err(e) => Some(format!("unknown: {e}")),
    }
}

/// A socket that nobody answers on is left from a process that was killed.
async fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    if !kind.is_socket() {
        bail!("there is something else at that path; remove it or choose another");
    }
    match UnixStream::connect(path).await {
        Ok(_) => bail!("another process serves there"),
        Err(_) => Ok(std::fs::remove_file(path)?),
    }
}
