//! Clients in the sandbox. To be called there.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::connect;
use crate::egress::servers::resolve;

fn config(certificate: &str, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A connection of HTTP/1.1, for bytes as they are.
pub struct Raw(Box<dyn Stream>);

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl Raw {
    /// Whoever answers must have a certificate of this authority.
    pub fn open(name: &'static str, certificate: &str) -> Self {
        let address = resolve(name).unwrap();
        let client =
            ClientConnection::new(config(certificate, &["http/1.1"]), name.try_into().unwrap()).unwrap();
        Self(Box::new(StreamOwned::new(client, connect(&address, 443))))
    }

    /// The same without TLS.
    pub fn plain(name: &str, port: u16) -> Self {
        Self(Box::new(connect(&resolve(name).unwrap(), port)))
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
        self.0.flush().unwrap();
    }

    /// Whether the connection took them.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).and_then(|()| self.0.flush()).is_ok()
    }

    /// One answer: its head and a body of the length that it says.
    pub fn answer(&mut self) -> Result<(String, String), ErrorKind> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).map_err(|error| error.kind())?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).map_err(|error| error.kind())?;
        Ok((head, String::from_utf8(body).unwrap()))
    }

    pub fn ask(&mut self, request: &str) -> (String, String) {
        self.write(request.as_bytes());
        self.answer().unwrap()
    }

    pub fn try_ask(&mut self, request: &str) -> Result<(String, String), ErrorKind> {
        self.0.write_all(request.as_bytes()).map_err(|error| error.kind())?;
        self.answer()
    }

    pub fn word(&mut self) -> [u8; 4] {
        let mut word = [0; 4];
        self.0.read_exact(&mut word).unwrap();
        word
    }

    /// What comes back to these bytes, if anything does before the connection ends.
    pub fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end, too.
        let _ = self.0.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The connection ends, soon, without another byte.
    pub fn ends(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(count) => count == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// Requests over one connection of HTTP/2, all at once.
pub fn http2(
    name: &'static str,
    certificate: &str,
    requests: Vec<Request<Full<Bytes>>>,
) -> Vec<Result<Response<Bytes>, hyper::Error>> {
    let address = resolve(name).unwrap();
    let socket = connect(&address, 443);
    socket.set_nonblocking(true).unwrap();
    let config = config(certificate, &["h2", "http/1.1"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let socket = tokio::net::TcpStream::from_std(socket).unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = connector.connect(name.try_into().unwrap(), socket).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut waiting = Vec::new();
        for mut request in requests {
            *request.version_mut() = Version::HTTP_2;
            let mut sender = sender.clone();
            waiting.push(tokio::spawn(async move {
                let (parts, body) = sender.send_request(request).await?.into_parts();
                Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
            }));
        }
        let mut answers = Vec::new();
        for answer in waiting {
            answers.push(answer.await.unwrap());
        }
        driver.abort();
        answers
    })
}
