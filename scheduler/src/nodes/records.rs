//! One task per node: takes what its broker tells of denials and of uses of secrets into the audit log.
//!
//! A record is in the log before its number is stored, so that a crash brings it twice rather than not at all. What went lost
//! before anybody took it is recorded with its count.

use std::{sync::Arc, time::Instant};

use cordium_audit::Entry;
use cordium_proto::v1::{EgressRecord, Kind, WatchEgressRecordsRequest};
use futures::StreamExt as _;
use tonic::{Code, Status};

use crate::{
    audit::entries,
    core::Core,
    error::{ApiError, describe},
    names::Target,
    nodes::NodeHandle,
    store::{
        egress_records::{self, Place},
        records,
    },
};

/// Records that are there are stored together; more than this many wait for the next transaction.
const BATCH: usize = 128;

#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("{}", describe(.0))]
    Call(Status),
    #[error("it ended its stream of records")]
    Ended,
    #[error(transparent)]
    Store(#[from] ApiError),
}

pub async fn run(core: Arc<Core>, node: Arc<NodeHandle>) {
    let (first, longest) = core.config.backoff;
    let mut wait = first;
    let mut told = false;
    loop {
        let began = Instant::now();
        let broken = tokio::select! {
            broken = follow(&core, &node) => broken,
            () = core.shutdown.cancelled() => return,
        };
        match broken {
            // Its denials are in its broker's log.
            Break::Call(status) if status.code() == Code::Unimplemented => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        node = node.name,
                        "this node is too old to tell of denials and uses of secrets"
                    );
                }
                wait = longest;
            }
            Break::Store(error) => {
                tracing::error!(node = node.name, %error, "records of egress are not in the audit log yet");
            }
            broken => tracing::debug!(node = node.name, reason = %broken, "records of egress not followed"),
        }
        if began.elapsed() > longest {
            wait = first;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.shutdown.cancelled() => return,
        }
        wait = (wait * 2).min(longest);
    }
}

/// One stream, until it breaks.
async fn follow(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Break {
    match take_all(core, node).await {
        Ok(()) => Break::Ended,
        Err(broken) => broken,
    }
}

async fn take_all(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Result<(), Break> {
    let name = node.name.clone();
    let mut place = core.store.read(move |conn| egress_records::place(conn, &name)).await?;
    let request = WatchEgressRecordsRequest { epoch: place.epoch, after: place.number };
    let stream = node.client().watch_egress_records(request).await.map_err(Break::Call)?.into_inner();
    let mut batches = stream.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut taken = Vec::with_capacity(batch.len());
        let mut broken = None;
        for item in batch {
            match item {
                Ok(record) => taken.push(record),
                Err(status) => {
                    broken = Some(status);
                    break;
                }
            }
        }
        place = record(core, node, place, taken).await?;
        if let Some(status) = broken {
            return Err(Break::Call(status));
        }
    }
    Ok(())
}

async fn record(
    core: &Arc<Core>,
    node: &NodeHandle,
    place: Place,
    taken: Vec<EgressRecord>,
) -> Result<Place, ApiError> {
    let (inner, name) = (core.clone(), node.name.clone());
    core.store
        .write(move |tx| {
            let mut place = place;
            for record in taken {
                let Some(step) = step(place, &record) else { continue };
                if step.lost > 0 || step.anew {
                    inner.audit.append(entries::egress_lost(&name, step.lost, step.anew))?;
                }
                let target = Target::Uid(record.workspace_uid.clone());
                let found = records::find(tx, Kind::Workspace, &target)?;
                let entry: Option<Entry> = entries::egress_record(&name, found.as_ref(), &record);
                if let Some(entry) = entry {
                    inner.audit.append(entry)?;
                }
                place = step.place;
            }
            egress_records::set(tx, &name, place)?;
            Ok(place)
        })
        .await
}

/// What a record means for the way that was come.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    place: Place,
    /// How much happened since that no record tells.
    lost: u64,
    /// Another broker tells, and what the one before had not told is not known.
    anew: bool,
}

/// None for a record that was taken already.
fn step(place: Place, record: &EgressRecord) -> Option<Step> {
    let same = place.epoch == record.epoch;
    if same && record.number <= place.number {
        return None;
    }
    let known = if same { place.happened } else { 0 };
    Some(Step {
        place: Place {
            epoch: record.epoch,
            number: record.number,
            happened: record.before.saturating_add(record.count),
        },
        lost: record.before.saturating_sub(known),
        anew: !same && place.epoch != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: u64, number: u64, before: u64, count: u64) -> EgressRecord {
        EgressRecord { epoch, number, before, count, ..EgressRecord::default() }
    }

    #[test]
    fn jumps_are_counted_and_repetitions_left_out() {
        let place = Place { epoch: 5, number: 3, happened: 40 };
        let to = |number, happened| Place { epoch: 5, number, happened };
        assert_eq!(step(place, &record(5, 3, 30, 10)), None);
        let next = step(place, &record(5, 4, 40, 7));
        assert_eq!(next, Some(Step { place: to(4, 47), lost: 0, anew: false }));
        let jump = step(place, &record(5, 9, 1000, 1));
        assert_eq!(jump, Some(Step { place: to(9, 1001), lost: 960, anew: false }));
    }

    #[test]
    fn another_broker_begins_anew() {
        let place = Place { epoch: 5, number: 3, happened: 40 };
        let other = step(place, &record(6, 1, 0, 2));
        let begun = Place { epoch: 6, number: 1, happened: 2 };
        assert_eq!(other, Some(Step { place: begun, lost: 0, anew: true }));
        assert_eq!(
            step(Place::default(), &record(6, 8, 30, 2)).map(|step| (step.lost, step.anew)),
            Some((30, false))
        );
    }
}
