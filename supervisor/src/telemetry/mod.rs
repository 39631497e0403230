//! Denials and uses of secrets as OpenTelemetry log records, over OTLP with gRPC.
//!
//! ```text
//!  broker's records ──▶ queue of 2,048 ──▶ exporter: batches, retried until they are taken
//!                          └─ full: dropped and counted, and the next batch says how many
//! ```
//!
//! Nothing waits for it: it reads what the broker keeps for the audit log, beside the scheduler.

mod export;
mod records;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cordium_broker::Record;
use serde::Deserialize;
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

pub use export::{Exporter, TelemetryError};

use crate::context::Context;

const QUEUE: usize = 2048;
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Part of the node's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Telemetry {
    /// Where OTLP is taken over gRPC: `http://127.0.0.1:4317`, or with `https`.
    pub otlp_endpoint: Option<String>,
    /// The certificates (PEM) of the authorities that such a server may have, in place of the node's.
    pub ca_file: Option<std::path::PathBuf>,
}

/// Records on their way to the exporter; never blocks.
#[derive(Clone)]
pub struct Queue {
    records: mpsc::Sender<Record>,
    dropped: Arc<AtomicU64>,
}

/// The exporter's end.
pub struct Queued {
    records: mpsc::Receiver<Record>,
    dropped: Arc<AtomicU64>,
}

/// Both ends of a queue of bounded length.
pub fn queue() -> (Queue, Queued) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    (Queue { records: sender, dropped: Arc::clone(&dropped) }, Queued { records: receiver, dropped })
}

impl Queue {
    /// Takes a record, or counts it.
    pub fn push(&self, record: Record) {
        if self.records.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drop_some(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// Starts the export, if the configuration asks for it.
pub fn start(config: &Telemetry, context: &Context) -> Result<(), TelemetryError> {
    let Some(exporter) = Exporter::new(config, &context.name)? else { return Ok(()) };
    let (queue, queued) = queue();
    context.tasks.spawn(exporter.run(queued, context.shutdown.clone()));
    context.tasks.spawn(read(context.sandbox.broker_socket.clone(), queue, context.shutdown.clone()));
    Ok(())
}

/// Reads what happens from now on, from whichever broker runs.
async fn read(socket: std::path::PathBuf, queue: Queue, shutdown: CancellationToken) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let began = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let (mut epoch, mut after) = (0, 0);
    let mut retry = FIRST_RETRY;
    loop {
        let read = async {
            let mut records = cordium_broker::watch_records(&socket, epoch, after).await?;
            while let Some(record) = records.next().await? {
                if record.epoch == epoch {
                    queue.drop_some(record.number.saturating_sub(after + 1));
                }
                (epoch, after) = (record.epoch, record.number);
                retry = FIRST_RETRY;
                // What happened before was told by the supervisor of then.
                if record.last_millis >= began {
                    queue.push(record);
                }
            }
            Ok::<(), cordium_broker::WatchError>(())
        };
        tokio::select! {
            ended = read => if let Err(error) = ended {
                tracing::debug!(%error, "no records for telemetry");
            },
            () = shutdown.cancelled() => return,
        }
        tokio::select! {
            () = sleep(retry) => retry = (retry * 2).min(LAST_RETRY),
            () = shutdown.cancelled() => return,
        }
    }
}
