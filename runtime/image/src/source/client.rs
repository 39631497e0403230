//! The connection to one host of a registry: the registry itself or a mirror of it.

use std::time::Duration;

use futures::StreamExt;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use super::retry::{Failure, chain};
use crate::config::StoreConfig;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::manifest::ACCEPT;
use crate::registries::Credentials;

const USER_AGENT: &str = concat!("cordium/", env!("CARGO_PKG_VERSION"));

pub(crate) struct HostClient {
    /// As the user writes it: `docker.io`, `127.0.0.1:5000`.
    pub host: String,
    /// The image, as named on this host.
    pub reference: Reference,
    pub client: Client,
    http: reqwest::Client,
    auth: RegistryAuth,
    plain: bool,
    idle: Duration,
}

impl HostClient {
    pub(crate) fn new(
        host: &str,
        reference: Reference,
        auth: Option<Credentials>,
        config: &StoreConfig,
    ) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError::Client { registry: host.to_owned(), reason };
        let plain = config.registries.plain_http(host);
        let pem = match config.registries.get(host).ca_file {
            Some(path) => {
                Some(std::fs::read(&path).map_err(|e| failed(format!("reading {}: {e}", path.display())))?)
            }
            None => None,
        };
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(config.timeouts.connect)
            .read_timeout(config.timeouts.idle);
        let mut oci = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(config.timeouts.idle),
            connect_timeout: Some(config.timeouts.connect),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        if let Some(pem) = pem {
            let list = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(chain(&e)))?;
            http = http.tls_certs_merge(list);
            oci.extra_root_certificates = pem_blocks(&pem)
                .map(|data| Certificate { encoding: CertificateEncoding::Pem, data })
                .collect();
        }
        let auth = match auth.or_else(|| config.registries.credentials(host)) {
            Some(Credentials { username, password }) => RegistryAuth::Basic(username, password),
            None => RegistryAuth::Anonymous,
        };
        Ok(Self {
            host: host.to_owned(),
            reference,
            client: Client::try_from(oci).map_err(|e| failed(chain(&e)))?,
            http: http.build().map_err(|e| failed(chain(&e)))?,
            auth,
            plain,
            idle: config.timeouts.idle,
        })
    }

    /// Gets a token, if the registry wants one; later calls use it.
    async fn authenticate(&self) -> Result<Option<String>, Failure> {
        self.client
            .auth(&self.reference, &self.auth, RegistryOperation::Pull)
            .await
            .map_err(|error| Failure::of_client(&error))
    }

    /// A manifest or index, never more than `limit` bytes of it: the OCI client's own call has no bound.
    pub(crate) async fn manifest(&self, reference: &str, limit: usize) -> Result<Vec<u8>, Failure> {
        let token = self.authenticate().await?;
        let scheme = if self.plain { "http" } else { "https" };
        let registry = self.reference.resolve_registry();
        let repository = self.reference.repository();
        let url = format!("{scheme}://{registry}/v2/{repository}/manifests/{reference}");
        let mut request = self.http.get(url).header(reqwest::header::ACCEPT, ACCEPT.join(", "));
        request = match (token, &self.auth) {
            (Some(token), _) => request.bearer_auth(token),
            (None, RegistryAuth::Basic(username, password)) => request.basic_auth(username, Some(password)),
            (None, _) => request,
        };
        let response = request.send().await.map_err(|e| Failure::of_http(&e))?;
        let status = response.status();
        let stream = response.bytes_stream().map(|item| item.map_err(|e| Failure::of_http(&e)));
        if !status.is_success() {
            let words = bounded(stream, 4096, self.idle).await.unwrap_or_default();
            return Err(Failure::of_status(status.as_u16(), &String::from_utf8_lossy(&words)));
        }
        bounded(stream, limit, self.idle).await
    }

    /// A small blob as a whole.
    pub(crate) async fn blob(&self, digest: &Digest, limit: usize) -> Result<Vec<u8>, Failure> {
        let stream = self.open(digest, 0).await?.1;
        bounded(stream, limit, self.idle).await
    }

    /// A blob's bytes from `offset` on. Answers whether they start there; if not, they start at 0.
    pub(crate) async fn open(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(bool, futures::stream::BoxStream<'static, Result<bytes::Bytes, Failure>>), Failure> {
        use oci_client::client::BlobResponse;
        self.client.store_auth_if_needed(self.reference.resolve_registry(), &self.auth).await;
        let descriptor =
            oci_client::manifest::OciDescriptor { digest: digest.to_string(), ..Default::default() };
        let answer = self.client.pull_blob_stream_partial(&self.reference, &descriptor, offset, None);
        let answer = tokio::time::timeout(self.idle, answer).await.map_err(|_| Failure::Silent(self.idle))?;
        let (at_offset, stream) = match answer.map_err(|e| Failure::of_client(&e))? {
            BlobResponse::Full(stream) => (offset == 0, stream),
            BlobResponse::Partial(stream) => (true, stream),
        };
        Ok((at_offset, stream.map(|item| item.map_err(|e| Failure::Transient(chain(&e)))).boxed()))
    }

    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }
}

/// One after the other, because the OCI client takes one certificate each.
fn pem_blocks(pem: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    const END: &str = "-----END CERTIFICATE-----";
    let text = String::from_utf8_lossy(pem).into_owned();
    let blocks: Vec<Vec<u8>> = text
        .split_inclusive(END)
        .filter(|block| block.trim_end().ends_with(END))
        .map(|block| format!("{}\n", block.trim()).into_bytes())
        .collect();
    blocks.into_iter()
}

async fn bounded(
    stream: impl futures::Stream<Item = Result<bytes::Bytes, Failure>>,
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
