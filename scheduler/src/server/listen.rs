//! Listeners: a unix socket for our own user, or TCP for clients with a certificate.

use std::{io, path::Path};

use anyhow::{Context as _, bail};
use cordium_serve::{tcp, unix};
use futures::{StreamExt as _, stream::BoxStream};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::Options;

pub enum Listener {
    Unix(BoxStream<'static, io::Result<UnixStream>>),
    Tcp(BoxStream<'static, io::Result<TcpStream>>),
}

pub async fn bind(options: &Options) -> anyhow::Result<Listener> {
    let address = options.listen.as_str();
    if let Some(path) = address.strip_prefix("unix:") {
        if options.tls_cert.is_some() {
            bail!("--listen {address}: a unix socket has no TLS; leave the --tls-* flags out");
        }
        let listener =
            unix::bind(Path::new(path)).await.with_context(|| format!("could not listen on {address}"))?;
        return Ok(Listener::Unix(unix::own_peers(listener).boxed()));
    }
    if options.tls_cert.is_none() {
        bail!("--listen {address}: TCP needs --tls-cert, --tls-key and --tls-client-ca, or use unix:PATH");
    }
    let resolved = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("--listen {address}: allowed: unix:PATH or HOST:PORT"))?
        .next()
        .with_context(|| format!("--listen {address}: the name has no address"))?;
    let listener =
        TcpListener::bind(resolved).await.with_context(|| format!("could not listen on {resolved}"))?;
    Ok(Listener::Tcp(tcp::connections(listener).boxed()))
}
