//! One task per node: follows its phases, and comes back after every break.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cordium_proto::v1::{GetNodeRequest, GetNodeResponse, PhaseEvent, WatchPhasesRequest};
use futures::StreamExt as _;
use tonic::Status;

use crate::{
    core::Core,
    error::{ApiError, describe},
    nodes::{NodeHandle, apply, apply::Position, egress, left_behind, reconcile},
    placement::beyond,
    store::{self, journal, workspaces},
};

const ANSWER: Duration = Duration::from_secs(5);
/// Events that are there are stored together; more than this many wait for the next transaction.
const BATCH: usize = 128;
/// A node whose replay has brought nothing for this long has no more to say.
const QUIET: Duration = Duration::from_secs(3);
/// So many unanswered polls end the connection.
const MISSES: u32 = 2;

#[derive(Debug, thiserror::Error)]
enum Break {
    #[error("{}", describe(.0))]
    Call(Status),
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("it calls itself {0:?}; start it with --name, or correct this scheduler's --node")]
    Impostor(String),
    #[error("it ended its phase stream")]
    Ended,
    #[error(transparent)]
    Store(#[from] ApiError),
}

pub async fn run(core: Arc<Core>, node: Arc<NodeHandle>) {
    let (first, longest) = core.config.backoff;
    let mut wait = first;
    loop {
        let began = Instant::now();
        let broken = tokio::select! {
            broken = connection(&core, &node) => broken,
            () = core.shutdown.cancelled() => return,
        };
        // What ends together with us is not lost.
        if core.shutdown.is_cancelled() {
            return;
        }
        if node.lost(&broken.to_string()) {
            tracing::warn!(node = node.name, reason = %broken, "node lost; trying to reach it again");
            if let Err(error) = tell_reachability(&core, &node).await {
                tracing::warn!(node = node.name, %error, "could not tell that the node is lost");
            }
        } else {
            tracing::debug!(node = node.name, reason = %broken, "node not reached");
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

/// One connection, until it breaks.
async fn connection(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Break {
    match follow(core, node).await {
        Ok(never) => match never {},
        Err(broken) => broken,
    }
}

async fn follow(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Result<std::convert::Infallible, Break> {
    let info = ask(core, node).await?;
    tell_reachability(core, node).await?;
    let mut position = resume_from(core, node, info.revision).await?;
    let request = WatchPhasesRequest { after_revision: position.cursor };
    let mut client = node.client();
    let stream = in_time(client.watch_phases(request)).await?.into_inner();
    let mut pending = Some(reconcile::Listing::take(core, node).await?);
    tracing::info!(node = node.name, revision = position.cursor, "following the node's phases");

    let mut batches = stream.ready_chunks(BATCH);
    let polled = poll(core, node);
    tokio::pin!(polled);
    let quiet = tokio::time::sleep(QUIET);
    tokio::pin!(quiet);
    loop {
        tokio::select! {
            batch = batches.next() => {
                let (events, broken) = split(batch.ok_or(Break::Ended)?);
                position = apply::batch(core, &node.name, position, events).await?;
                node.set_applied(position.newest());
                if let Some(status) = broken {
                    return Err(Break::Call(status));
                }
                quiet.as_mut().reset(tokio::time::Instant::now() + QUIET);
            }
            () = &mut quiet, if pending.is_some() => {}
            broken = &mut polled => return Err(broken),
        }
        let caught_up =
            |listing: &reconcile::Listing| position.newest() >= listing.revision || quiet.is_elapsed();
        if let Some(listing) = pending.take_if(|listing| caught_up(listing)) {
            position = listing.reconcile(core, node, position).await?;
            node.set_applied(position.newest());
        }
    }
}

/// The stored position; from the beginning when the node's own count lies before it, as with a new state directory.
async fn resume_from(core: &Core, node: &NodeHandle, revision: u64) -> Result<Position, ApiError> {
    let name = node.name.clone();
    let (cursor, _) = core.store.read(move |conn| store::nodes::cursor(conn, &name)).await?;
    if cursor <= revision {
        return Ok(Position { cursor, snapshot: 0 });
    }
    tracing::warn!(node = node.name, cursor, revision, "the node has started its history anew");
    node.set_applied(0);
    Ok(Position::default())
}

fn split(batch: Vec<Result<PhaseEvent, Status>>) -> (Vec<PhaseEvent>, Option<Status>) {
    let mut events = Vec::with_capacity(batch.len());
    for item in batch {
        match item {
            Ok(event) => events.push(event),
            Err(status) => return (events, Some(status)),
        }
    }
    (events, None)
}

/// Keeps the view of the node fresh and sends starts again that it has not got. Ends when it is silent.
async fn poll(core: &Arc<Core>, node: &Arc<NodeHandle>) -> Break {
    let mut misses = 0;
    loop {
        tokio::time::sleep(core.config.poll).await;
        match ask(core, node).await {
            Ok(_) => misses = 0,
            Err(broken @ (Break::Impostor(_) | Break::Store(_))) => return broken,
            Err(broken) => {
                misses += 1;
                if misses >= MISSES {
                    return broken;
                }
            }
        }
        if let Err(e) = reconcile::resend_starts(core, node).await {
            tracing::warn!(node = node.name, error = %e, "could not look for starts to send again");
        }
        if let Err(e) = egress::tell_some(core, node).await {
            tracing::warn!(node = node.name, error = %e, "could not look for policies to tell again");
        }
        if let Err(e) = left_behind::delete_some(core, node).await {
            tracing::warn!(node = node.name, error = %e, "could not look for what is left to delete");
        }
    }
}

/// Watchers of the workspaces that are active on a node hear that it is lost, and that it is back: an event without a
/// phase, in which the warnings have changed.
async fn tell_reachability(core: &Arc<Core>, node: &NodeHandle) -> Result<(), ApiError> {
    let (inner, name) = (core.clone(), node.name.clone());
    core.store
        .write(move |tx| {
            for mut ws in workspaces::active_on(tx, &name)? {
                inner.decorate_status(&mut ws.status);
                let told = journal::warnings(tx, ws.revision)?;
                if told.is_some_and(|told| told != ws.status.warnings) {
                    journal::append(tx, &ws, None, false)?;
                }
            }
            Ok(())
        })
        .await
}

async fn ask(core: &Core, node: &NodeHandle) -> Result<GetNodeResponse, Break> {
    let mut client = node.client();
    let info = in_time(client.get_node(GetNodeRequest {})).await?.into_inner();
    if !info.name.is_empty() && info.name != node.name {
        return Err(Break::Impostor(info.name));
    }
    let name = node.name.clone();
    let ours = core.store.read(move |conn| workspaces::promised(conn, &name)).await?;
    let foreign = beyond(&info.allocated.unwrap_or_default(), &ours);
    node.heard(info.clone(), foreign);
    Ok(info)
}

async fn in_time<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Break> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer.map_err(Break::Call),
        Err(_) => Err(Break::Silent),
    }
}
