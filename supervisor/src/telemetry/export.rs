//! The client: batches, each sent until it is taken.

use std::{io, path::PathBuf, sync::atomic::Ordering, time::Duration};

use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, logs_service_client::LogsServiceClient,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::{Queued, Telemetry, records};

const BATCH: usize = 256;
/// What happens at once goes together.
const TOGETHER: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// For what is left, when the supervisor ends.
const FAREWELL: Duration = Duration::from_secs(1);
const MAX_CA: u64 = 1 << 20;

/// The telemetry that is configured cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// It is no address of a server.
    #[error("telemetry.otlpEndpoint: was {endpoint:?}; allowed: http://HOST:PORT or https://HOST:PORT")]
    Endpoint {
        /// As configured.
        endpoint: String,
    },
    /// The authorities cannot be read.
    #[error("reading telemetry.caFile {}: {source}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be had.
    #[error("preparing TLS for telemetry.otlpEndpoint: {0}")]
    Tls(#[from] tonic::transport::Error),
    /// There is no authority to trust.
    #[error(
        "telemetry.otlpEndpoint is https, and the node trusts no authority; name one in telemetry.caFile"
    )]
    NoAuthority,
}

/// Sends batches to one server.
pub struct Exporter {
    client: LogsServiceClient<Channel>,
    node: String,
}

impl Exporter {
    /// None if the configuration does not ask for it.
    pub fn new(config: &Telemetry, node: &str) -> Result<Option<Self>, TelemetryError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let bad = || TelemetryError::Endpoint { endpoint: endpoint.clone() };
        let plain = endpoint.starts_with("http://");
        if !plain && !endpoint.starts_with("https://") {
            return Err(bad());
        }
        let parsed = Endpoint::from_shared(endpoint.clone()).map_err(|_| bad())?;
        let uri = parsed.uri();
        if uri.host().is_none_or(str::is_empty) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad());
        }
        let mut parsed = parsed.connect_timeout(CONNECT).timeout(ANSWER);
        if !plain {
            parsed = parsed.tls_config(ClientTlsConfig::new().ca_certificate(authorities(config)?))?;
        }
        let client = LogsServiceClient::new(parsed.connect_lazy());
        Ok(Some(Self { client, node: node.to_owned() }))
    }

    /// Exports what comes. After `shutdown` what is left is exported, if that goes fast.
    pub async fn run(mut self, queued: Queued, shutdown: CancellationToken) {
        let mut work = std::pin::pin!(self.export_all(queued));
        tokio::select! {
            () = &mut work => return,
            () = shutdown.cancelled() => {}
        }
        if timeout(FAREWELL, work).await.is_err() {
            tracing::warn!("some telemetry was not delivered before the end");
        }
    }

    /// Until nothing can come any more.
    async fn export_all(&mut self, mut queued: Queued) {
        loop {
            let mut batch = Vec::new();
            let open = queued.records.recv_many(&mut batch, BATCH).await > 0;
            if open {
                sleep(TOGETHER).await;
            }
            while batch.len() < BATCH
                && let Ok(record) = queued.records.try_recv()
            {
                batch.push(record);
            }
            let dropped = queued.dropped.swap(0, Ordering::Relaxed);
            if !batch.is_empty() || dropped > 0 {
                self.deliver(records::request(&self.node, &batch, dropped), batch.len()).await;
            }
            if !open {
                return;
            }
        }
    }

    /// Until the server has taken it or does not want it.
    async fn deliver(&mut self, request: ExportLogsServiceRequest, count: usize) {
        let mut retry = FIRST_RETRY;
        loop {
            match self.client.export(request.clone()).await {
                Ok(response) => {
                    let rejected = response.into_inner().partial_success;
                    if let Some(partial) = rejected.filter(|partial| partial.rejected_log_records > 0) {
                        let (rejected, reason) = (partial.rejected_log_records, partial.error_message);
                        tracing::warn!(rejected, reason, "the OTLP server has rejected log records");
                    }
                    return;
                }
                Err(status) if !may_be_retried(&status) => {
                    let reason = status.message();
                    tracing::warn!(records = count, code = ?status.code(), reason, "the OTLP server refuses log records");
                    return;
                }
                Err(status) => {
                    let (code, reason) = (status.code(), status.message());
                    if retry == FIRST_RETRY {
                        tracing::warn!(
                            ?code,
                            reason,
                            "the OTLP server does not take log records; trying again"
                        );
                    }
                }
            }
            sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }
}

/// As the specification of OTLP has it, and what our transport says where there is no server.
fn may_be_retried(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unknown
            | Code::Internal
    )
}

/// Those of the file, or those that the node trusts.
fn authorities(config: &Telemetry) -> Result<Certificate, TelemetryError> {
    if let Some(path) = &config.ca_file {
        let read = || {
            if std::fs::metadata(path)?.len() > MAX_CA {
                return Err(io::Error::other("it is longer than 1 MiB"));
            }
            std::fs::read(path)
        };
        let pem = read().map_err(|source| TelemetryError::Authorities { path: path.clone(), source })?;
        return Ok(Certificate::from_pem(pem));
    }
    let found = rustls_native_certs::load_native_certs();
    let encode = |der: &[u8]| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    let pem: String = found.certs.iter().map(|certificate| encode(certificate)).collect();
    if pem.is_empty() {
        return Err(TelemetryError::NoAuthority);
    }
    Ok(Certificate::from_pem(pem))
}

/// For tests: exports at once.
#[cfg(test)]
impl Exporter {
    pub(super) async fn export(&mut self, batch: &[cordium_broker::Record]) -> Result<(), Status> {
        self.client.export(records::request(&self.node, batch, 0)).await.map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
