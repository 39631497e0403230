//! A server that takes OpenTelemetry log records over OTLP.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value::Value,
    logs::v1::LogRecord,
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::Result;

/// Keeps all that it takes.
#[derive(Clone, Default)]
pub struct Receiver(Arc<Mutex<Vec<LogRecord>>>);

impl Receiver {
    /// Serves on a port of the loopback.
    pub async fn start() -> Result<(Self, u16)> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("listening for OTLP")?;
        let port = listener.local_addr()?.port();
        let receiver = Self::default();
        let server =
            tonic::transport::Server::builder().add_service(LogsServiceServer::new(receiver.clone()));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok((receiver, port))
    }

    /// The values of an attribute of the records of one event.
    pub fn values(&self, event: &str, key: &str) -> Vec<String> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_event = records.iter().filter(|record| record.event_name == event);
        let values = of_event.flat_map(|record| &record.attributes).filter(|pair| pair.key == key);
        values
            .filter_map(|pair| match pair.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                Value::IntValue(number) => Some(number.to_string()),
                _ => None,
            })
            .collect()
    }
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> std::result::Result<Response<ExportLogsServiceResponse>, Status> {
        let logs = request.into_inner().resource_logs.into_iter().flat_map(|logs| logs.scope_logs);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(logs.flat_map(|logs| logs.log_records));
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
