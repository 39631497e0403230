//! What is exported: names as OpenTelemetry's semantic conventions have them, and ours below `cordium`. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cordium_broker::{Denial, Happened, Owner, Protocol, Record, Use};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};

/// One request with these records; `dropped` were left out before them.
pub(super) fn request(node: &str, batch: &[Record], dropped: u64) -> ExportLogsServiceRequest {
    let now = nanos(SystemTime::now());
    let mut log_records: Vec<LogRecord> = batch.iter().map(|record| log_record(record, now)).collect();
    if dropped > 0 {
        let attributes = vec![number("cordium.count", dropped)];
        log_records.push(entry(
            "cordium.telemetry.dropped",
            WARN,
            "records were dropped",
            attributes,
            now,
            now,
        ));
    }
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![
            text("service.name", "cordium-supervisor"),
            text("service.version", version),
            text("service.instance.id", node),
            text("cordium.node.name", node),
        ],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "cordium.egress".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_logs = ScopeLogs { scope: Some(scope), log_records, ..ScopeLogs::default() };
    let logs =
        ResourceLogs { resource: Some(resource), scope_logs: vec![scope_logs], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

type Severity = (SeverityNumber, &'static str);
const INFO: Severity = (SeverityNumber::Info, "INFO");
const WARN: Severity = (SeverityNumber::Warn, "WARN");

fn log_record(record: &Record, now: u64) -> LogRecord {
    let (name, severity, body, mut attributes) = match &record.what {
        Happened::Denied(denial) => ("cordium.egress.denied", WARN, "egress denied", denied(denial)),
        Happened::Used(used) => ("cordium.credential.used", INFO, "credential used", put(used)),
        Happened::DenialsLeftOut => {
            ("cordium.egress.denied.left_out", WARN, "denials that were too many to be told apart", vec![])
        }
        Happened::UsesLeftOut => {
            ("cordium.credential.used.left_out", WARN, "uses that were too many to be told apart", vec![])
        }
    };
    attributes.extend([
        text("cordium.workspace.uid", &record.workspace),
        text("cordium.run.id", &record.run),
        number("cordium.count", record.count),
    ]);
    entry(name, severity, body, attributes, millis(record.last_millis), now)
}

fn denied(denial: &Denial) -> Vec<KeyValue> {
    let Denial { names, address, port, protocol, method, path, rule, reason, next, owner, .. } = denial;
    let address = address.map(|address| address.to_string());
    let mut attributes =
        vec![text("cordium.rule", rule), text("cordium.reason", reason), text("cordium.next", next)];
    match protocol {
        Protocol::Dns => {
            attributes.push(text("network.protocol.name", "dns"));
            attributes.extend(names.first().map(|name| text("dns.question.name", name)));
        }
        Protocol::Tcp | Protocol::Udp => {
            let transport = if *protocol == Protocol::Udp { "udp" } else { "tcp" };
            attributes.push(text("network.transport", transport));
            attributes.extend(names.first().or(address.as_ref()).map(|name| text("server.address", name)));
        }
    }
    attributes.extend(address.map(|address| text("network.peer.address", &address)));
    attributes.extend(method.as_ref().map(|method| text("http.request.method", method)));
    attributes.extend(path.as_ref().map(|path| text("url.path", path)));
    attributes.extend(port.map(|port| number("server.port", u64::from(port))));
    if let Some(Owner { pid, program, task }) = owner {
        attributes.push(number("process.pid", u64::from(*pid)));
        attributes.extend(some(program).map(|program| text("process.executable.path", program)));
        attributes.extend(some(task).map(|task| text("cordium.task.name", task)));
    }
    attributes
}

fn put(used: &Use) -> Vec<KeyValue> {
    let Use { credential, secret, host, port, requests, more } = used;
    let values = requests.iter().map(|request| string(request)).collect();
    vec![
        text("server.address", host),
        number("server.port", u64::from(*port)),
        text("cordium.credential.name", credential),
        text("cordium.secret.name", secret),
        pair("cordium.requests", Value::ArrayValue(ArrayValue { values })),
        number("cordium.requests.more", *more),
    ]
}

fn entry(
    name: &str,
    (severity, severity_text): Severity,
    body: &str,
    attributes: Vec<KeyValue>,
    time_unix_nano: u64,
    observed_time_unix_nano: u64,
) -> LogRecord {
    LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        severity_number: severity.into(),
        severity_text: severity_text.to_owned(),
        body: Some(string(body)),
        attributes,
        event_name: name.to_owned(),
        ..LogRecord::default()
    }
}

fn some(text: &String) -> Option<&String> {
    Some(text).filter(|text| !text.is_empty())
}

fn string(text: &str) -> AnyValue {
    AnyValue { value: Some(Value::StringValue(text.to_owned())) }
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.to_owned()))
}

fn number(key: &str, number: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(number).unwrap_or(i64::MAX)))
}

fn millis(millis: u64) -> u64 {
    nanos(UNIX_EPOCH + Duration::from_millis(millis))
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
