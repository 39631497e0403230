//! Against a real server of OTLP, on a port of its own.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use cordium_broker::{Denial, Happened, Owner, Protocol, Record, Use};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{
        ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    common::v1::any_value::Value,
    logs::v1::LogRecord,
};
use tokio::net::TcpListener;
use tonic::{Request, Response, transport::server::TcpIncoming};

use super::{super::queue, *};

#[derive(Clone, Default)]
struct Receiver {
    taken: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
    /// Refusals to come.
    refusals: Arc<Mutex<Vec<Status>>>,
}

#[tonic::async_trait]
impl LogsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        if let Some(refusal) = self.refusals.lock().unwrap().pop() {
            return Err(refusal);
        }
        self.taken.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Receiver {
    fn serve(&self, listener: TcpListener) {
        let server = LogsServiceServer::new(self.clone());
        let incoming = TcpIncoming::from(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(incoming));
    }

    fn records(&self) -> Vec<LogRecord> {
        let taken = self.taken.lock().unwrap();
        let logs = taken.iter().flat_map(|request| &request.resource_logs).flat_map(|logs| &logs.scope_logs);
        logs.flat_map(|logs| logs.log_records.clone()).collect()
    }

    async fn until(&self, count: usize) -> Vec<LogRecord> {
        let found = async {
            while self.records().len() < count {
                sleep(Duration::from_millis(10)).await;
            }
            self.records()
        };
        timeout(Duration::from_secs(30), found).await.unwrap_or_else(|_| panic!("{:?}", self.records()))
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn exporter(address: SocketAddr) -> Exporter {
    let config = Telemetry { otlp_endpoint: Some(format!("http://{address}")), ca_file: None };
    Exporter::new(&config, "n1").unwrap().unwrap()
}

fn record(what: Happened) -> Record {
    Record {
        epoch: 1,
        number: 1,
        before: 0,
        count: 12,
        workspace: "w1".into(),
        run: "r1".into(),
        first_millis: 1_000,
        last_millis: 2_000,
        what,
    }
}

fn denial() -> Denial {
    Denial {
        number: 1,
        time_millis: 2_000,
        workspace: "w1".into(),
        names: vec!["a.example".into()],
        address: Some([192, 0, 2, 1].into()),
        port: Some(443),
        protocol: Protocol::Tcp,
        method: Some("PUT".into()),
        path: Some("/x".into()),
        rule: "default".into(),
        reason: "because".into(),
        next: "do".into(),
        owner: Some(Owner { pid: 7, program: "/usr/bin/curl".into(), task: "build".into() }),
    }
}

fn text(record: &LogRecord, key: &str) -> String {
    let found = record.attributes.iter().find(|pair| pair.key == key);
    match found.and_then(|pair| pair.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

#[tokio::test]
async fn a_denial_and_a_use_arrive_under_the_names_of_the_conventions() {
    let (listener, address) = listener().await;
    let receiver = Receiver::default();
    receiver.serve(listener);
    let dns = Denial {
        protocol: Protocol::Dns,
        address: None,
        port: None,
        method: None,
        path: None,
        owner: None,
        ..denial()
    };
    let used = Use {
        credential: "api".into(),
        secret: "token".into(),
        host: "api.example".into(),
        port: 8443,
        requests: vec!["GET /a".into()],
        more: 2,
    };
    let batch = [Happened::Denied(denial()), Happened::Denied(dns), Happened::Used(used)].map(record);
    exporter(address).export(&batch).await.unwrap();
    let records = receiver.records();
    let [tcp, dns, used] = &records[..] else { panic!("{records:?}") };
    for (key, expected) in [
        ("server.address", "a.example"),
        ("server.port", "443"),
        ("network.transport", "tcp"),
        ("network.peer.address", "192.0.2.1"),
        ("http.request.method", "PUT"),
        ("url.path", "/x"),
        ("process.pid", "7"),
        ("process.executable.path", "/usr/bin/curl"),
        ("cordium.task.name", "build"),
        ("cordium.rule", "default"),
        ("cordium.workspace.uid", "w1"),
        ("cordium.run.id", "r1"),
        ("cordium.count", "12"),
    ] {
        assert_eq!(text(tcp, key), expected, "{key}");
    }
    assert_eq!((tcp.event_name.as_str(), tcp.severity_text.as_str()), ("cordium.egress.denied", "WARN"));
    assert_eq!(tcp.time_unix_nano, 2_000_000_000);
    assert_eq!(
        (text(dns, "dns.question.name"), text(dns, "process.pid")),
        ("a.example".into(), String::new())
    );
    assert_eq!(
        (text(used, "cordium.secret.name"), text(used, "server.port")),
        ("token".into(), "8443".into())
    );
    let taken = receiver.taken.lock().unwrap();
    let resource = taken[0].resource_logs[0].resource.as_ref().unwrap();
    let keys: Vec<_> = resource.attributes.iter().map(|pair| pair.key.as_str()).collect();
    assert_eq!(keys, ["service.name", "service.version", "service.instance.id", "cordium.node.name"]);
}

#[tokio::test]
async fn a_server_that_comes_later_gets_what_was_kept_and_hears_of_what_was_dropped() {
    let (listener, address) = listener().await;
    drop(listener);
    let (queue, queued) = queue();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(exporter(address).run(queued, shutdown.clone()));
    let most = u64::try_from(super::super::QUEUE + BATCH).unwrap();
    // No server: nobody waits.
    for _ in 0..most + 1000 {
        queue.push(record(Happened::Denied(denial())));
    }
    let receiver = Receiver::default();
    receiver.refusals.lock().unwrap().push(Status::unavailable("soon"));
    receiver.serve(TcpListener::bind(address).await.unwrap());
    let told = async {
        loop {
            let records = receiver.records();
            let (dropped, kept): (Vec<_>, Vec<_>) =
                records.iter().partition(|record| record.event_name == "cordium.telemetry.dropped");
            let sum: u64 =
                dropped.iter().map(|record| text(record, "cordium.count").parse::<u64>().unwrap()).sum();
            if sum + u64::try_from(kept.len()).unwrap() == most + 1000 {
                return sum;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let dropped = timeout(Duration::from_secs(60), told).await.expect("all are told or counted");
    assert!(dropped >= 1000, "{dropped}");
    // What is left goes before the end.
    let before = receiver.records().len();
    queue.push(record(Happened::DenialsLeftOut));
    drop(queue);
    shutdown.cancel();
    timeout(Duration::from_secs(30), running).await.unwrap().unwrap();
    assert_eq!(receiver.until(before + 1).await.last().unwrap().event_name, "cordium.egress.denied.left_out");
}

#[test]
fn an_endpoint_that_is_none_is_refused_by_name() {
    let new = |endpoint: &str| {
        let config = Telemetry { otlp_endpoint: Some(endpoint.into()), ca_file: None };
        Exporter::new(&config, "n1").map(drop).map_err(|error| error.to_string())
    };
    for bad in
        ["", "collector:4317", "ftp://a:1", "unix:///run/x", "http://", "http://a:1/v1/logs", "http://a:1/?x"]
    {
        let error = new(bad).unwrap_err();
        assert!(error.starts_with("telemetry.otlpEndpoint: was "), "{bad}: {error}");
    }
    let config = Telemetry { otlp_endpoint: Some("https://a:1".into()), ca_file: Some("/nowhere".into()) };
    assert!(matches!(Exporter::new(&config, "n1"), Err(TelemetryError::Authorities { .. })));
    assert!(Exporter::new(&Telemetry::default(), "n1").unwrap().is_none());
}
