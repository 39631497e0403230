//! One inspected connection from its ClientHello to its end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use cordium_egress::{Host, Request as Asked};
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::sync::{Notify, mpsc};

use super::answer::{Body, denied, drain};
use super::inspection::Inspection;
use super::request::wrong_target;
use super::tls::{self, Speaks, TlsError};
use super::upstream::{self, Driver, Unsent, Upstream};
use super::{MAX_HEAD, MAX_HEADERS, SEND_BUFFER, WINDOW, claims, hold, hop, target};
use crate::denials::{Denial, Protocol, Ring, What, Why};
use crate::end::End;
use crate::policy::Rules;

/// For the head of a request.
const HEAD: Duration = Duration::from_secs(30);
const MAX_STREAMS: u32 = 64;

/// How the requests of a connection are seen.
pub(crate) enum Way {
    Plain,
    Tls(Arc<Inspection>),
}

/// Which connection it is, and who decides about its requests.
pub(crate) struct Place {
    pub host: Host,
    pub way: Way,
    pub destination: SocketAddr,
    pub client: Option<SocketAddr>,
    /// Those that led to the destination.
    pub names: Arc<[Host]>,
    pub rules: Arc<Rules>,
    pub ring: Arc<Ring>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no request in 30 s")]
    Silent,
    #[error("serving the client: {0}")]
    Client(hyper::Error),
    #[error("passing on what has become a WebSocket: {0}")]
    WebSocket(std::io::Error),
}

/// What the requests of one connection share.
struct Connection {
    place: Arc<Place>,
    upstream: Upstream,
    /// A request has come.
    begun: Notify,
    /// A WebSocket is being opened: the connection is not to be ended in between.
    upgrading: AtomicBool,
    upgrades: mpsc::UnboundedSender<(OnUpgrade, OnUpgrade)>,
}

/// Serves the client's requests until one of the sides ends.
pub(crate) async fn serve(place: Arc<Place>, client: End, upstream: End) -> Result<(), InspectError> {
    match &place.way {
        Way::Plain => {
            let (upstream, driver) =
                reached(&place, upstream::open(upstream, Speaks::Http1).await.map_err(|_| false)).await;
            Connection::serve(place, client, Speaks::Http1, upstream, driver).await
        }
        Way::Tls(inspection) => {
            let hello = tls::hello(client, &place.host).await?;
            let connected = tls::connect(upstream, inspection, &place.host, hello.offered.clone()).await;
            let (opened, chosen) = match connected {
                Ok((stream, speaks)) => {
                    (upstream::open(stream, speaks).await.map_err(|_| false), Some(speaks))
                }
                Err(error) => (Err(tls::is_certificate(&error)), None),
            };
            let chosen = chosen.filter(|_| opened.is_ok());
            let (upstream, driver) = reached(&place, opened).await;
            let (client, speaks) = hello.accept(inspection, &place.host, chosen).await?;
            let place = Arc::clone(&place);
            Connection::serve(place, client, speaks, upstream, driver).await
        }
    }
}

/// The server's side, or what to answer in its place.
async fn reached(place: &Place, opened: Result<(Upstream, Driver), bool>) -> (Upstream, Driver) {
    match opened {
        Ok(opened) => opened,
        Err(certificate) => {
            (Upstream::None(place.unreached(certificate).await), Box::pin(std::future::pending()))
        }
    }
}

impl Place {
    async fn deny(&self, why: Why, request: Option<(&str, &str)>) -> Arc<Denial> {
        let what = What {
            names: std::slice::from_ref(&self.host),
            destination: Some(self.destination),
            client: self.client,
            protocol: Protocol::Tcp,
            request,
        };
        self.ring.deny(&what, why).await
    }

    async fn unreached(&self, certificate: bool) -> Arc<Denial> {
        let (reason, next) = if certificate {
            (
                "the server's certificate is not valid for this host, or is of nobody whom the node trusts",
                "check the server; a private authority is named with the credential",
            )
        } else {
            (
                "no TLS could be spoken with the server of a host whose requests are looked at",
                "check the server",
            )
        };
        self.deny(Why { rule: "upstream-tls".into(), reason, next }, None).await
    }
}

impl Connection {
    async fn serve<S>(
        place: Arc<Place>,
        client: S,
        speaks: Speaks,
        upstream: Upstream,
        driver: Driver,
    ) -> Result<(), InspectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (upgrades, mut upgraded) = mpsc::unbounded_channel();
        let upgrading = AtomicBool::new(false);
        let connection = Arc::new(Self { place, upstream, begun: Notify::new(), upgrading, upgrades });
        match speaks {
            Speaks::Http1 => {
                let rest = connection.http1(client, driver).await?;
                drop(connection);
                if let Ok(pair) = upgraded.try_recv() {
                    web_socket(pair, rest).await.map_err(InspectError::WebSocket)?;
                }
                Ok(())
            }
            Speaks::Http2 => connection.http2(client, driver).await,
        }
    }

    /// Ends when the client has no more requests; gives back the server's side, if that has not ended.
    async fn http1<S>(self: &Arc<Self>, client: S, mut driver: Driver) -> Result<Option<Driver>, InspectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request| {
            let connection = Arc::clone(self);
            async move { connection.answer(request).await }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS);
        let mut server = pin!(builder.serve_connection(TokioIo::new(client), service).with_upgrades());
        let mut driven = true;
        loop {
            tokio::select! {
                ended = &mut server => return ended.map(|()| driven.then_some(driver)).map_err(InspectError::Client),
                _ = &mut driver, if driven => {
                    driven = false;
                    if !self.upgrading.load(Ordering::Relaxed) {
                        server.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }

    async fn http2<S>(self: Arc<Self>, client: S, mut driver: Driver) -> Result<(), InspectError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let begun = Arc::clone(&self);
        let service = service_fn(move |request| {
            let connection = Arc::clone(&self);
            async move { connection.answer(request).await }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let mut server = pin!(builder.serve_connection(TokioIo::new(client), service));
        let mut silent = pin!(tokio::time::timeout(HEAD, begun.begun.notified()));
        let (mut driven, mut waits) = (true, true);
        loop {
            tokio::select! {
                ended = &mut server => return ended.map_err(InspectError::Client),
                _ = &mut driver, if driven => {
                    driven = false;
                    server.as_mut().graceful_shutdown();
                }
                came = &mut silent, if waits => {
                    waits = false;
                    came.map_err(|_| InspectError::Silent)?;
                }
            }
        }
    }

    /// Before the request is on its way. One that goes nowhere has used nothing.
    fn account(&self, used: &[(String, String)], request: &str) {
        if matches!(self.upstream, Upstream::None(_)) {
            return;
        }
        let Place { host, destination, ring, .. } = &*self.place;
        for (credential, secret) in used {
            ring.account.used(credential, secret, host.as_str(), destination.port(), request);
        }
    }

    /// An error ends the connection without an answer, after which a client may try anew.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        self.begun.notify_one();
        let (mut parts, body) = request.into_parts();
        let place = &self.place;
        // Before a value may stand in it. Of the path only: a query is the client's secret.
        let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
        let asked = Some((method.as_str(), path.as_str()));
        let body = match hold::body(&mut parts, body, place.signs()).await {
            Ok(body) => body,
            Err(why) => {
                let denial = place.deny(why, asked).await;
                return Ok(denied(&denial, StatusCode::FORBIDDEN));
            }
        };
        match place.admit(&mut parts) {
            Ok(used) => self.account(&used, &format!("{method} {path}")),
            Err(why) => {
                let denial = place.deny(why, asked).await;
                drain(body).await;
                return Ok(denied(&denial, StatusCode::FORBIDDEN));
            }
        }
        let web_socket = parts.version < http::Version::HTTP_2 && hop::is_web_socket(&parts.headers);
        hop::strip(&mut parts.headers, web_socket);
        let mut request = Request::from_parts(parts, body);
        let client = web_socket.then(|| hyper::upgrade::on(&mut request));
        self.upgrading.store(web_socket, Ordering::Relaxed);
        let mut response = match self.upstream.send(request).await {
            Ok(response) => response,
            Err(Unsent::Lost(error)) => return Err(error),
            Err(Unsent::Unreached(denial)) => return Ok(denied(&denial, StatusCode::BAD_GATEWAY)),
        };
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match client {
            Some(client) if switches && hop::is_web_socket(response.headers()) => {
                // The receiver lives as long as the connection.
                let _ = self.upgrades.send((client, hyper::upgrade::on(&mut response)));
                hop::strip(response.headers_mut(), true);
                return Ok(response.map(Either::Left));
            }
            _ if switches => {
                let reason = "the server switches to a protocol that was not asked for";
                let why = Why { rule: "upgrade".into(), reason, next: "check the server" };
                let denial = place.deny(why, None).await;
                return Ok(denied(&denial, StatusCode::BAD_GATEWAY));
            }
            _ => self.upgrading.store(false, Ordering::Relaxed),
        }
        hop::strip(response.headers_mut(), false);
        Ok(response.map(Either::Left))
    }
}

impl Place {
    /// Checks a request by the policy and the credentials that hold now, and puts those on it. The names of those that are on it,
    /// and of their secrets, come back.
    fn admit(&self, parts: &mut http::request::Parts) -> Result<Vec<(String, String)>, Why> {
        let refused = |reason| Why { rule: "request".into(), reason, next: "send a plain request" };
        hop::check_framing(&parts.headers).map_err(refused)?;
        let port = self.destination.port();
        for (method, path) in claims::of(parts).map_err(refused)? {
            self.rules.request(self.destination, &self.names, &self.host, &Asked::new(method, path))?;
        }
        let Way::Tls(inspection) = &self.way else {
            target::check(parts, &self.host, port, &Scheme::HTTP).map_err(wrong_target)?;
            return Ok(Vec::new());
        };
        match self.rules.inspection() {
            Some(now) if now.binds(&self.host) => {
                let used = now.apply(&self.host, port, parts, SystemTime::now())?;
                Ok(used.into_iter().map(|bound| (bound.name.clone(), bound.secret.clone())).collect())
            }
            now => {
                // A placeholder of what has been taken away is still one.
                inspection.pass(&self.host, port, parts)?;
                now.map_or(Ok(()), |now| now.pass(&self.host, port, parts))?;
                Ok(Vec::new())
            }
        }
    }

    /// Over plain HTTP nothing is signed.
    fn signs(&self) -> bool {
        matches!(self.way, Way::Tls(_))
            && self.rules.inspection().is_some_and(|inspection| inspection.signs(&self.host))
    }
}

/// Copies both ways, while the rest of the server's side lets go of its connection.
async fn web_socket(
    (client, upstream): (OnUpgrade, OnUpgrade),
    driver: Option<Driver>,
) -> std::io::Result<()> {
    let drive = async {
        if let Some(driver) = driver {
            // Its end is told to `upstream`, too.
            let _ = driver.await;
        }
    };
    let (client, upstream, ()) = tokio::join!(client, upstream, drive);
    let other = std::io::Error::other;
    let (mut client, mut upstream) =
        (TokioIo::new(client.map_err(other)?), TokioIo::new(upstream.map_err(other)?));
    copy_bidirectional(&mut client, &mut upstream).await.map(drop)
}
