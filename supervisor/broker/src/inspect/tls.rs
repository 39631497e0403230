//! The two handshakes of an inspected connection: first the server's, so that both sides get the same protocol.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cordium_egress::Host;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector, client, server};

use super::authority::AuthorityError;
use super::inspection::Inspection;
use crate::end::End;

const HANDSHAKE: Duration = Duration::from_secs(10);
const H2: &[u8] = b"h2";
const HTTP_11: &[u8] = b"http/1.1";

/// Why a connection could not be taken over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("the client's handshake: {0}")]
    Client(io::Error),
    #[error("the client's handshake took longer than 10 s")]
    Slow,
    #[error("the client asks for another name than it did first")]
    Name,
    #[error("making the certificate: {0}")]
    Certificate(#[from] AuthorityError),
}

/// What the two sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http1,
    Http2,
}

/// A client that has said hello.
pub(super) struct Hello {
    start: StartHandshake<End>,
    /// Those of its protocols that are understood here, in its order.
    pub offered: Vec<Vec<u8>>,
}

pub(super) async fn hello(client: End, host: &Host) -> Result<Hello, TlsError> {
    let heard = timeout(HANDSHAKE, LazyConfigAcceptor::new(Acceptor::default(), client));
    let start = heard.await.map_err(|_| TlsError::Slow)?.map_err(TlsError::Client)?;
    let said = start.client_hello();
    if said.server_name().and_then(|name| Host::parse(name).ok()).as_ref() != Some(host) {
        return Err(TlsError::Name);
    }
    let known = |protocol: &&[u8]| [H2, HTTP_11].contains(protocol);
    let offered = said.alpn().map(|all| all.filter(known).map(<[u8]>::to_vec).collect()).unwrap_or_default();
    Ok(Hello { start, offered })
}

impl Hello {
    /// Completes the client's handshake with what the server has chosen; without a server, with what the client likes best.
    pub(super) async fn accept(
        self,
        inspection: &Inspection,
        host: &Host,
        chosen: Option<Speaks>,
    ) -> Result<(server::TlsStream<End>, Speaks), TlsError> {
        let protocols = match chosen {
            Some(Speaks::Http2) => vec![H2.to_vec()],
            Some(Speaks::Http1) => vec![HTTP_11.to_vec()],
            None => self.offered,
        };
        let config = inspection.server(host, protocols)?;
        let accepted = timeout(HANDSHAKE, self.start.into_stream(config));
        let stream = accepted.await.map_err(|_| TlsError::Slow)?.map_err(TlsError::Client)?;
        let speaks = speaks(stream.get_ref().1.alpn_protocol());
        Ok((stream, speaks))
    }
}

/// The server's side, with its certificate verified.
pub(super) async fn connect(
    upstream: End,
    inspection: &Inspection,
    host: &Host,
    offered: Vec<Vec<u8>>,
) -> io::Result<(client::TlsStream<End>, Speaks)> {
    let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::clone(&inspection.client(offered)));
    let stream = timeout(HANDSHAKE, connector.connect(name, upstream)).await??;
    let speaks = speaks(stream.get_ref().1.alpn_protocol());
    Ok((stream, speaks))
}

fn speaks(protocol: Option<&[u8]>) -> Speaks {
    if protocol == Some(H2) { Speaks::Http2 } else { Speaks::Http1 }
}

/// Whether the server's certificate is why, and not the network.
pub(crate) fn is_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}
