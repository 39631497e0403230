//! One connection of a client: each request is admitted, made fit and passed on, and its answer comes back.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::WorkspaceState;
use http::{Method, Request, Response, StatusCode, Uri, Version, request::Parts};
use http_body_util::Either;
use hyper::{
    body::Incoming,
    client::conn::http1::{self as client, SendRequest},
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io,
    sync::{Mutex, OwnedSemaphorePermit},
    time::timeout,
};

use crate::{
    Shared,
    admit::{Shown, is_foreign},
    answer::{Body, Refusal, remember, wants_page},
    forward,
    headers::{answered, is_web_socket, keep_cookie, strip, take_cookies, take_parameters},
    serve::{MAX_HEAD, MAX_HEADERS},
    target::Target,
};

const CONNECT: Duration = Duration::from_secs(15);

/// An open connection to a port, for one request after the other.
struct Lane {
    host: String,
    uid: String,
    sender: SendRequest<Incoming>,
}

pub struct Connection {
    shared: Arc<Shared>,
    entry: u16,
    lane: Mutex<Option<Lane>>,
    /// Held by a WebSocket, too, when the connection has become one.
    permit: Arc<OwnedSemaphorePermit>,
}

impl Connection {
    pub fn new(shared: Arc<Shared>, entry: u16, permit: OwnedSemaphorePermit) -> Self {
        Self { shared, entry, lane: Mutex::new(None), permit: Arc::new(permit) }
    }

    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let html = wants_page(request.headers());
        self.pass(request).await.unwrap_or_else(|refusal| refusal.response(html))
    }

    async fn pass(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let (mut parts, body) = request.into_parts();
        if size(&parts) > MAX_HEAD {
            let reason = "the head of the request is longer than 64 KiB";
            return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason, "send less"));
        }
        let target = Target::of(&parts.headers, &parts.uri, self.entry).ok_or_else(|| {
            let reason = format!("only hosts like 3000-WORKSPACE.localhost:{} are served here", self.entry);
            Refusal::new(StatusCode::MISDIRECTED_REQUEST, reason, "cordium open WORKSPACE PORT")
        })?;
        let (path, tokens) = take_parameters(&parts.uri);
        let mut shown = Shown { tokens, cookies: take_cookies(&mut parts.headers) };
        if is_foreign(&parts.headers, &target.host) {
            shown.cookies.clear();
        }
        let workspace = self.shared.admit(&target, &shown).await?;
        let web_socket = is_web_socket(&parts.headers);
        if workspace.by_token && !web_socket && matches!(parts.method, Method::GET | Method::HEAD) {
            let cookie = self.shared.key.cookie(&workspace.uid, &target.host);
            return Ok(remember(&target.host, path.as_str(), &cookie));
        }
        if workspace.state != WorkspaceState::Running {
            let state = workspace.state.short_name();
            let reason = format!("workspace {} is {state}, not RUNNING", target.workspace);
            let next = format!("cordium start {}", target.workspace);
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason, next));
        }
        if parts.method == Method::CONNECT {
            let next = format!("cordium port-forward {} {}", target.workspace, target.port);
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy", next));
        }
        strip(&mut parts.headers, web_socket);
        parts.uri = Uri::from(path);
        parts.version = Version::HTTP_11;
        self.send(&target, &workspace.uid, parts, body, web_socket).await
    }

    async fn send(
        &self,
        target: &Target,
        uid: &str,
        parts: Parts,
        body: Incoming,
        web_socket: bool,
    ) -> Result<Response<Body>, Refusal> {
        let mut request = Request::from_parts(parts, body);
        let ours = web_socket.then(|| hyper::upgrade::on(&mut request));
        let mut lane = self.lane.lock().await;
        let (sender, mut response) = self.ask(lane.take(), target, uid, request).await?;
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        match ours {
            Some(ours) if switches && is_web_socket(response.headers()) => {
                let theirs = hyper::upgrade::on(&mut response);
                self.join(ours, theirs);
                strip(response.headers_mut(), true);
            }
            _ if switches => {
                let reason = "the program switches to a protocol that was not asked for";
                let next = "look at the program that serves it";
                return Err(Refusal::new(StatusCode::BAD_GATEWAY, reason, next));
            }
            _ => {
                strip(response.headers_mut(), false);
                *lane = Some(Lane { host: target.host.clone(), uid: uid.to_owned(), sender });
            }
        }
        answered(response.headers_mut());
        keep_cookie(response.headers_mut());
        *response.version_mut() = Version::HTTP_11;
        Ok(response.map(Either::Left))
    }

    /// Sends the request over the lane, if that leads there and is still open, else over a new one.
    async fn ask(
        &self,
        lane: Option<Lane>,
        target: &Target,
        uid: &str,
        request: Request<Incoming>,
    ) -> Result<(SendRequest<Incoming>, Response<Incoming>), Refusal> {
        let broken = |error: hyper::Error| {
            let reason = format!("port {} of {} broke off: {error}", target.port, target.workspace);
            Refusal::new(StatusCode::BAD_GATEWAY, reason, "look at the program that serves it")
        };
        let fits = |lane: &Lane| lane.host == target.host && lane.uid == uid;
        let mut kept = lane.filter(fits).map(|lane| lane.sender);
        if let Some(sender) = &mut kept
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut request = request;
        if let Some(mut sender) = kept {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((sender, response)),
                // It was closed in the meantime, and nothing of the request was sent.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(broken(failed.into_error())),
                },
            }
        }
        let mut sender = self.connect(target, uid).await?;
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((sender, response))
    }

    async fn connect(&self, target: &Target, uid: &str) -> Result<SendRequest<Incoming>, Refusal> {
        let unreached = |reason: String| {
            Refusal::new(StatusCode::BAD_GATEWAY, reason, format!("cordium ports {}", target.workspace))
        };
        let opening = forward::open(self.shared.session(), uid, target.port);
        let stream = match timeout(CONNECT, opening).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(status)) => return Err(unreached(status.message().to_owned())),
            Err(_) => return Err(unreached(format!("port {} does not answer", target.port))),
        };
        let mut builder = client::Builder::new();
        builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
        let made = builder.handshake::<_, Incoming>(TokioIo::new(stream)).await;
        let (sender, driver) = made.map_err(|error| unreached(error.to_string()))?;
        tokio::spawn(async move {
            // Its end is told to the sender, too.
            let _ = driver.with_upgrades().await;
        });
        Ok(sender)
    }

    /// Carries a WebSocket, until either side or the entry ends.
    fn join(&self, ours: OnUpgrade, theirs: OnUpgrade) {
        let (permit, ended) = (self.permit.clone(), self.shared.shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = carry(ours, theirs) => {}
                () = ended.cancelled() => {}
            }
            drop(permit);
        });
    }
}

/// Of the head. What reads it stops only somewhere above its limit.
fn size(parts: &Parts) -> usize {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let headers = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    target + headers.sum::<usize>()
}

/// A WebSocket says its own end: whoever closes the connection has nothing more to hear, and the other is not waited for.
async fn carry(ours: OnUpgrade, theirs: OnUpgrade) {
    let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) else { return };
    let (mut ours_read, mut ours_write) = io::split(TokioIo::new(ours));
    let (mut theirs_read, mut theirs_write) = io::split(TokioIo::new(theirs));
    tokio::select! {
        _ = io::copy(&mut ours_read, &mut theirs_write) => {}
        _ = io::copy(&mut theirs_read, &mut ours_write) => {}
    }
}
