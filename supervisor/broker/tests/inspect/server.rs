//! A real server of HTTPS outside that tells what it was sent.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::support::World;

pub const NAMES: [&str; 3] = ["one.example", "two.example", "evil.example"];

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub version: Version,
    pub method: String,
    pub uri: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Clone)]
pub struct Server {
    /// What a client must trust.
    pub certificate: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Everything that it was sent since the last time.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    /// On port 443 of all addresses outside, over HTTP/1.1 and HTTP/2.
    pub fn start(world: &World) -> Self {
        let made = rcgen::generate_simple_self_signed(NAMES.map(str::to_owned)).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let server = Self { certificate: made.cert.pem(), seen: Arc::default() };
        let listener = crate::listen(world, 443);
        listener.set_nonblocking(true).unwrap();
        let (acceptor, clone) = (TlsAcceptor::from(Arc::new(config)), server.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (acceptor, server) = (acceptor.clone(), clone.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            server.serve(stream).await;
                        }
                    });
                }
            });
        });
        server
    }

    /// The same without TLS, on another port.
    pub fn plain(&self, world: &World, port: u16) {
        let listener = crate::listen(world, port);
        listener.set_nonblocking(true).unwrap();
        let clone = self.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let server = clone.clone();
                    let service = service_fn(move |request| server.clone().answer(request));
                    tokio::spawn(
                        hyper::server::conn::http1::Builder::new()
                            .serve_connection(TokioIo::new(stream), service)
                            .with_upgrades(),
                    );
                }
            });
        });
    }

    async fn serve(self, stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let service = service_fn(move |request| self.clone().answer(request));
        let io = TokioIo::new(stream);
        if h2 {
            drop(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await,
            );
        } else {
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .with_upgrades()
                    .await,
            );
        }
    }

    async fn answer(self, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        self.seen.lock().unwrap().push(Seen {
            version: parts.version,
            method: parts.method.to_string(),
            uri: parts.uri.to_string(),
            headers: parts.headers,
            body: body.clone(),
        });
        let mut response = Response::new(Full::new(Bytes::from([&b"served "[..], &body].concat())));
        if let Some(upgrade) = upgrade {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
            *response.body_mut() = Full::default();
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                while stream.read_exact(&mut word).await.is_ok() && stream.write_all(&word).await.is_ok() {}
            });
        }
        Ok(response)
    }
}
