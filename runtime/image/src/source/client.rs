//! The connection to one host of a registry: the registry itself or a mirror of it.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use oci_client::Reference;
use reqwest::{Response, StatusCode, header};
use tokio::sync::Mutex;

use super::retry::{Failure, chain};
use super::token::{self, Access, Challenge};
use crate::config::StoreConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::ACCEPT;
use crate::registries::Credentials;

const USER_AGENT: &str = concat!("cordium/", env!("CARGO_PKG_VERSION"));
/// The longest explanation of a refusal, and the longest answer of a token service, that are read.
const MAX_WORDS: usize = 4 << 10;
const MAX_TOKEN: usize = 256 << 10;

/// Nothing that a registry answers is read without a bound, its refusals and tokens included; that is why the requests are
/// made here and not by the OCI client.
pub(crate) struct HostClient {
    /// As the user writes it: `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    /// The image, as named on this host.
    reference: Reference,
    http: reqwest::Client,
    credentials: Option<Credentials>,
    /// What the registry was last content with.
    access: Mutex<Option<Access>>,
    plain: bool,
    idle: Duration,
}

pub(crate) type Chunks = BoxStream<'static, Result<bytes::Bytes, Failure>>;

impl HostClient {
    pub(crate) fn new(
        host: &str,
        reference: Reference,
        auth: Option<Credentials>,
        config: &StoreConfig,
    ) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError::Client { registry: host.to_owned(), reason };
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(config.timeouts.connect)
            .read_timeout(config.timeouts.idle);
        if let Some(path) = config.registries.get(host).ca_file {
            let pem = std::fs::read(&path).map_err(|e| failed(format!("reading {}: {e}", path.display())))?;
            let list = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(chain(&e)))?;
            http = http.tls_certs_merge(list);
        }
        Ok(Self {
            host: host.to_owned(),
            reference,
            http: http.build().map_err(|e| failed(chain(&e)))?,
            credentials: auth.or_else(|| config.registries.credentials(host)),
            access: Mutex::new(None),
            plain: config.registries.plain_http(host),
            idle: config.timeouts.idle,
        })
    }

    /// A manifest or index, never more than `limit` bytes of it.
    pub(crate) async fn manifest(&self, reference: &str, limit: usize) -> Result<Vec<u8>, Failure> {
        let accept = (header::ACCEPT, ACCEPT.join(", "));
        let response = self.get(&format!("manifests/{reference}"), accept).await?;
        bounded(self.chunks(response), limit, self.idle).await
    }

    /// A small blob as a whole.
    pub(crate) async fn blob(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, Failure> {
        let stream = self.open(digest, 0).await?.1;
        bounded(stream, limit, self.idle).await
    }

    /// A blob's bytes from `offset` on. Answers whether they start there; if not, they start at 0.
    pub(crate) async fn open(&self, digest: &Digest, offset: u64) -> Result<(bool, Chunks), Failure> {
        let range = (header::RANGE, format!("bytes={offset}-"));
        let response = self.get(&format!("blobs/{digest}"), range).await?;
        let at_offset = offset == 0 || response.status() == StatusCode::PARTIAL_CONTENT;
        Ok((at_offset, self.chunks(response)))
    }

    /// Asks for something of the image. A token that has run out is replaced once.
    async fn get(&self, what: &str, header: (header::HeaderName, String)) -> Result<Response, Failure> {
        let url = format!("{}/{}/{what}", self.base(), self.reference.repository());
        let mut access = self.access(None).await?;
        let mut renewed = false;
        loop {
            let request = self.http.get(&url).header(header.0.clone(), &header.1);
            let response = self.send(access.add_to(request)).await?;
            if response.status() == StatusCode::UNAUTHORIZED && !renewed && access.may_run_out() {
                access = self.access(Some(&access)).await?;
                renewed = true;
                continue;
            }
            return self.success(response).await;
        }
    }

    fn base(&self) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        format!("{scheme}://{}/v2", self.reference.resolve_registry())
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Failure> {
        match tokio::time::timeout(self.idle, request.send()).await {
            Ok(answer) => answer.map_err(|error| Failure::of_http(&error, self.idle)),
            Err(_) => Err(Failure::Silent(self.idle)),
        }
    }

    async fn success(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // What was wrong is known already: the words about it are worth little time.
        let words = bounded(self.chunks(response), MAX_WORDS, self.idle).await.unwrap_or_default();
        Err(Failure::of_status(status.as_u16(), &token::words(&words)))
    }

    fn chunks(&self, response: Response) -> Chunks {
        let idle = self.idle;
        response.bytes_stream().map(move |item| item.map_err(|error| Failure::of_http(&error, idle))).boxed()
    }

    /// What to send along. Found out once, and once more when what was found is no longer any good.
    async fn access(&self, useless: Option<&Access>) -> Result<Access, Failure> {
        let mut known = self.access.lock().await;
        match &*known {
            Some(access) if useless != Some(access) => return Ok(access.clone()),
            _ => {}
        }
        let response = self.send(self.http.get(format!("{}/", self.base()))).await?;
        // Out of order, or wants to be asked more slowly: that says nothing of how it wants to be asked.
        if response.status().is_server_error() || response.status() == StatusCode::TOO_MANY_REQUESTS {
            self.success(response).await?;
            return Ok(Access::Anonymous);
        }
        let asked = response.headers().get_all(header::WWW_AUTHENTICATE);
        let challenge = Challenge::of(asked.iter().filter_map(|value| value.to_str().ok()));
        let access = match challenge {
            Some(challenge) => Access::Bearer(self.token(&challenge).await?),
            None => self.credentials.clone().map_or(Access::Anonymous, Access::Basic),
        };
        *known = Some(access.clone());
        Ok(access)
    }

    async fn token(&self, challenge: &Challenge) -> Result<String, Failure> {
        let url = challenge.url(self.reference.repository(), self.plain).map_err(Failure::Permanent)?;
        let mut request = self.http.get(url);
        if let Some(Credentials { username, password }) = &self.credentials {
            request = request.basic_auth(username, Some(password));
        }
        let response = self.success(self.send(request).await?).await?;
        let answer = bounded(self.chunks(response), MAX_TOKEN, self.idle).await?;
        token::parse(&answer).map_err(Failure::Permanent)
    }

    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }
}

async fn bounded(
    stream: impl Stream<Item = Result<bytes::Bytes, Failure>>,
    limit: usize,
    idle: Duration,
) -> Result<Vec<u8>, Failure> {
    let mut stream = std::pin::pin!(stream);
    let mut all = Vec::new();
    loop {
        match tokio::time::timeout(idle, stream.next()).await {
            Err(_) => return Err(Failure::Silent(idle)),
            Ok(None) => return Ok(all),
            Ok(Some(chunk)) => all.extend_from_slice(&chunk?),
        }
        if all.len() > limit {
            return Err(Failure::Permanent(format!("the answer is longer than {limit} bytes")));
        }
    }
}
