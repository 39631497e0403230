//! Images of a registry: mirrors in order, then the registry itself; attempts with growing waits; layers
//! that go on where a broken connection left them.

use std::future::Future;

use futures::StreamExt;
use oci_client::Reference;
use tokio::sync::OnceCell;

use super::client::HostClient;
use super::retry::{Failure, backoff};
use super::sink::LayerSink;
use super::{Resolved, assemble};
use crate::config::StoreConfig;
use crate::digest::Digest;
use crate::error::{ImageError, LayerError};
use crate::manifest::{self, Blob, Document, Manifest};
use crate::registries::Credentials;

/// Broken connections of one layer, with progress between them.
const MAX_RESUMES: u32 = 64;

pub(crate) struct RegistrySource {
    reference: Reference,
    auth: Option<Credentials>,
    config: StoreConfig,
    /// The host that answered; layers come from there.
    chosen: OnceCell<HostClient>,
}

impl RegistrySource {
    pub(crate) fn new(reference: Reference, auth: Option<Credentials>, config: &StoreConfig) -> Self {
        Self { reference, auth, config: config.clone(), chosen: OnceCell::new() }
    }

    fn image(&self) -> String {
        self.reference.whole()
    }

    /// Mirrors never get the credentials that came with the workspace: they are for the registry.
    fn candidates(&self) -> Vec<(String, Reference, Option<Credentials>)> {
        let host = self.reference.registry();
        let mut list = Vec::new();
        for mirror in self.config.registries.get(host).mirrors {
            let mirror = mirror.trim_end_matches('/');
            let (mirror_host, prefix) = mirror.split_once('/').unwrap_or((mirror, ""));
            let repository = match prefix {
                "" => self.reference.repository().to_owned(),
                prefix => format!("{prefix}/{}", self.reference.repository()),
            };
            list.push((mirror_host.to_owned(), self.on(mirror_host, repository), None));
        }
        list.push((host.to_owned(), self.reference.clone(), self.auth.clone()));
        list
    }

    fn on(&self, host: &str, repository: String) -> Reference {
        match self.reference.digest() {
            Some(digest) => Reference::with_digest(host.to_owned(), repository, digest.to_owned()),
            None => {
                let tag = self.reference.tag().unwrap_or("latest").to_owned();
                Reference::with_tag(host.to_owned(), repository, tag)
            }
        }
    }

    pub(crate) async fn resolve(&self) -> Result<Resolved, ImageError> {
        let candidates = self.candidates();
        let last = candidates.len() - 1;
        for (index, (host, reference, auth)) in candidates.into_iter().enumerate() {
            let client = HostClient::new(&host, reference, auth, &self.config);
            let result = match &client {
                Ok(client) => self.resolve_on(client).await,
                Err(error) => Err(error.clone()),
            };
            match (result, client) {
                (Ok(resolved), Ok(client)) => {
                    let _ = self.chosen.set(client);
                    return Ok(resolved);
                }
                (Err(error), _) if index < last => {
                    tracing::warn!(mirror = %host, %error, "a mirror could not be used");
                }
                (Err(error), _) | (Ok(_), Err(error)) => return Err(error),
            }
        }
        Err(ImageError::Lost { image: self.image() })
    }

    async fn resolve_on(&self, host: &HostClient) -> Result<Resolved, ImageError> {
        let asked = self.reference.digest().or(self.reference.tag()).unwrap_or("latest").to_owned();
        let expected = match self.reference.digest() {
            Some(digest) => Some(
                Digest::parse(digest)
                    .map_err(|reason| ImageError::Reference { reference: self.image(), reason })?,
            ),
            None => None,
        };
        let (digest, document) = self.document(host, &asked, expected.as_ref()).await?;
        let (digest, manifest) = match document {
            Document::Manifest(manifest) => (digest, manifest),
            Document::Index(entries) => {
                let entry = manifest::choose(&entries).map_err(|available| ImageError::Platform {
                    image: self.image(),
                    wanted: manifest::platform_name(),
                    available,
                })?;
                let wanted = manifest::blob(entry).map_err(|reason| self.bad("the index", reason))?.digest;
                let wanted = wanted.ok_or_else(|| self.bad("the index", "an entry has no digest".into()))?;
                match self.document(host, wanted.as_str(), Some(&wanted)).await? {
                    (digest, Document::Manifest(manifest)) => (digest, manifest),
                    _ => return Err(self.bad("the index", "it names another index".into())),
                }
            }
        };
        let config = self.config_blob(host, &manifest).await?;
        assemble(&self.image(), digest, config, manifest.layers)
    }

    async fn document(
        &self,
        host: &HostClient,
        reference: &str,
        expected: Option<&Digest>,
    ) -> Result<(Digest, Document), ImageError> {
        let limit = self.config.limits.manifest_bytes;
        let bytes = self.attempts(host, "reading the manifest", || host.manifest(reference, limit)).await?;
        let actual = Digest::of(&bytes);
        self.check("the manifest", expected, &actual)?;
        let document = manifest::parse(&bytes).map_err(|reason| self.bad("the manifest", reason))?;
        Ok((actual, document))
    }

    async fn config_blob(&self, host: &HostClient, manifest: &Manifest) -> Result<Vec<u8>, ImageError> {
        let limit = self.config.limits.config_bytes;
        if manifest.config.size > limit as u64 {
            return Err(self.bad("the configuration", format!("it is longer than {limit} bytes")));
        }
        let Some(digest) = &manifest.config.digest else {
            return Err(self.bad("the manifest", "its configuration has no digest".into()));
        };
        let bytes = self.attempts(host, "reading the configuration", || host.blob(digest, limit)).await?;
        self.check("the configuration", Some(digest), &Digest::of(&bytes))?;
        Ok(bytes)
    }

    fn check(
        &self,
        what: &'static str,
        expected: Option<&Digest>,
        actual: &Digest,
    ) -> Result<(), ImageError> {
        match expected {
            Some(expected) if expected != actual => Err(ImageError::Digest {
                image: self.image(),
                what,
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn bad(&self, what: &'static str, reason: String) -> ImageError {
        ImageError::Document { image: self.image(), what, reason }
    }

    /// Runs a step until it succeeds, fails for good, or has failed too often.
    async fn attempts<T, F>(
        &self,
        host: &HostClient,
        action: &'static str,
        step: impl Fn() -> F,
    ) -> Result<T, ImageError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let timeouts = &self.config.timeouts;
        let mut failures = 0;
        loop {
            let limit = timeouts.document;
            let failure = match tokio::time::timeout(limit, step()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Silent(limit),
            };
            failures += 1;
            if failure.is_worth_a_retry() && failures < timeouts.attempts {
                tracing::debug!(registry = %host.host, %failure, failures, "{action}: trying again");
                tokio::time::sleep(backoff(timeouts, failures)).await;
                continue;
            }
            let (image, registry) = (self.image(), host.host.clone());
            return Err(match failure {
                Failure::Unauthorized(status) => ImageError::Unauthorized { registry, image, status },
                Failure::NotFound => ImageError::NotFound { registry, image },
                Failure::Silent(time) => {
                    let seconds = time.as_secs().max(1);
                    ImageError::RegistryTimeout { image, registry, action, seconds, attempts: failures }
                }
                Failure::Transient(reason) => {
                    let reason = format!("{reason} ({failures} attempts)");
                    ImageError::Registry { image, registry, action, reason }
                }
                Failure::Permanent(reason) => ImageError::Registry { image, registry, action, reason },
            });
        }
    }

    pub(crate) async fn copy(&self, blob: &Blob, sink: &mut LayerSink) -> Result<(), LayerError> {
        let (Some(host), Some(digest)) = (self.chosen.get(), &blob.digest) else {
            return Err(LayerError::Lost);
        };
        let timeouts = &self.config.timeouts;
        let (mut failures, mut resumes) = (0, 0);
        while !sink.is_complete() {
            let before = sink.got();
            let failure = match self.stream(host, digest, sink).await? {
                None if sink.is_complete() => break,
                None => Failure::Transient(format!("it ended after {} of {} bytes", sink.got(), blob.size)),
                Some(failure) => failure,
            };
            if sink.is_complete() {
                break;
            }
            failures = if sink.got() > before { 1 } else { failures + 1 };
            resumes += 1;
            if !failure.is_worth_a_retry() || failures >= timeouts.attempts || resumes > MAX_RESUMES {
                let from = host.host.clone();
                return Err(match failure {
                    Failure::Silent(time) => {
                        LayerError::Silent { from, seconds: time.as_secs().max(1), attempts: failures }
                    }
                    failure => {
                        let reason = format!("{failure} ({resumes} attempts)");
                        LayerError::Download { from, reason }
                    }
                });
            }
            tracing::debug!(registry = %host.host, layer = %digest, got = sink.got(), %failure, "resuming a layer");
            tokio::time::sleep(backoff(timeouts, failures)).await;
        }
        Ok(())
    }

    /// One connection's worth of a layer. Errors of this side are errors; those of the other are answered.
    async fn stream(
        &self,
        host: &HostClient,
        digest: &Digest,
        sink: &mut LayerSink,
    ) -> Result<Option<Failure>, LayerError> {
        let offset = sink.got();
        let (at_offset, mut stream) = match host.open(digest, offset).await {
            Ok(opened) => opened,
            Err(failure) => return Ok(Some(failure)),
        };
        // A registry that ignores the range sends what is here already once more.
        let mut skip = if at_offset { 0 } else { offset };
        loop {
            match tokio::time::timeout(host.idle(), stream.next()).await {
                Err(_) => return Ok(Some(Failure::Silent(host.idle()))),
                Ok(None) => return Ok(None),
                Ok(Some(Err(failure))) => return Ok(Some(failure)),
                Ok(Some(Ok(chunk))) => {
                    let start = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
                    skip -= start as u64;
                    if start < chunk.len() {
                        sink.write(&chunk[start..]).await?;
                    }
                }
            }
        }
    }
}
