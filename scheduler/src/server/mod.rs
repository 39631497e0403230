//! The process around the library: options, listeners, connections to nodes.

pub mod listen;
pub mod nodes;
mod options;

use std::time::Duration;

use anyhow::Context as _;
use cordium_proto::{DESCRIPTORS, v1};
use cordium_scheduler::{ControlService, Embedded};
use cordium_serve::tls::PemFiles;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, ServerTlsConfig};

pub use options::Options;

/// Large enough for one bulk stream to fill a link.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

pub async fn serve(
    options: &Options,
    listener: listen::Listener,
    scheduler: &Embedded,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<v1::control_server::ControlServer<ControlService>>().await;
    reporter.set_serving::<v1::session_server::SessionServer<ControlService>>().await;
    reporter.set_serving::<v1::audit_server::AuditServer<ControlService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("could not set up reflection")?;

    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE));
    if let Some(tls) = tls(options)? {
        server = server.tls_config(tls).context("the listener's certificate or key cannot be used")?;
    }
    let router = server
        .add_service(scheduler.control_server())
        .add_service(scheduler.session_server())
        .add_service(scheduler.audit_server())
        .add_service(health)
        .add_service(reflection);
    let stopped = stop.cancelled_owned();
    match listener {
        listen::Listener::Unix(incoming) => router.serve_with_incoming_shutdown(incoming, stopped).await?,
        listen::Listener::Tcp(incoming) => router.serve_with_incoming_shutdown(incoming, stopped).await?,
    }
    Ok(())
}

/// Clients must show a certificate of the given authority.
fn tls(options: &Options) -> anyhow::Result<Option<ServerTlsConfig>> {
    let (Some(cert), Some(key), Some(authority)) =
        (&options.tls_cert, &options.tls_key, &options.tls_client_ca)
    else {
        return Ok(None);
    };
    Ok(Some(PemFiles { cert, key, authority }.server()?))
}
