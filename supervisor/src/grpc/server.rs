//! Puts the services together for each listener.

use std::time::Duration;

use cordium_proto::{
    DESCRIPTORS, MAX_MESSAGE_BYTES,
    v1::{
        audit_server::{Audit, AuditServer},
        control_server::{Control, ControlServer},
        entry_server::EntryServer,
        node_server::NodeServer,
        session_server::{Session, SessionServer},
    },
};
use tonic::transport::{Server, server::Router};

use super::{node::NodeService, session::SessionService};

/// How many calls one connection may have open.
const STREAMS: u32 = 2048;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The reflection service cannot read our own descriptors.
#[derive(Debug, thiserror::Error)]
#[error("preparing gRPC reflection: {0}")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

fn node_server(node: NodeService) -> NodeServer<NodeService> {
    NodeServer::new(node).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn session_server<S: Session>(session: S) -> SessionServer<S> {
    SessionServer::new(session)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Node and Session, for schedulers.
pub fn for_schedulers(node: NodeService, session: SessionService) -> Router {
    builder().add_service(node_server(node)).add_service(session_server(session))
}

/// As [`for_schedulers`], over mutual TLS.
pub fn for_remote_schedulers(
    node: NodeService,
    session: SessionService,
    tls: tonic::transport::ServerTlsConfig,
) -> Result<Router, tonic::transport::Error> {
    Ok(builder().tls_config(tls)?.add_service(node_server(node)).add_service(session_server(session)))
}

/// Everything, with health and reflection, for clients on this machine. Without a scheduler there is no Control and no
/// Audit, and `session` is the node's own.
pub async fn for_clients<C: Control + Audit + Clone, S: Session>(
    node: NodeService,
    control: Option<C>,
    session: S,
    entry: Option<EntryServer<cordium_entry::Service>>,
) -> Result<Router, ReflectionError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<NodeServer<NodeService>>().await;
    reporter.set_serving::<SessionServer<S>>().await;
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let audit = control.clone().map(|c| AuditServer::new(c).max_decoding_message_size(MAX_MESSAGE_BYTES));
    let control = control.map(|c| ControlServer::new(c).max_decoding_message_size(MAX_MESSAGE_BYTES));
    if control.is_some() {
        reporter.set_serving::<ControlServer<C>>().await;
        reporter.set_serving::<AuditServer<C>>().await;
    }
    Ok(builder()
        .add_service(health)
        .add_service(describe().build_v1()?)
        .add_service(describe().build_v1alpha()?)
        .add_service(node_server(node))
        .add_service(session_server(session))
        .add_optional_service(control)
        .add_optional_service(audit)
        .add_optional_service(entry))
}
