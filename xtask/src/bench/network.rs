//! (i) What leaves a workspace, beside a plain veth pair, slirp4netns and pasta, to one server in a namespace of its own.
//!
//! ```text
//!  workspace ══ gateway ── broker ──┐
//!  namespace ── slirp4netns ────────┼── node ══ veth ══ server
//!  namespace ── pasta ──────────────┘                     ║
//!  namespace ══════════════════ veth ═════════════════════╝
//! ```
//!
//! The client is the same everywhere: threads of this program that enter the namespace.

mod compare;
mod decisions;
mod ground;
mod inspected;
mod latency;
mod servers;
mod throughput;
mod update;
mod ways;

use anyhow::Result;

pub use inspected::PORT as HOST_PORT;

use super::{Bench, table::Row};

pub async fn network(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = over_the_wire(bench).await?;
    rows.extend(decisions::rows().await?);
    Ok(rows)
}

async fn over_the_wire(bench: &Bench) -> Result<Vec<Row>> {
    let ground = ground::Ground::lay()?;
    let servers = servers::Servers::start(&ground.outside)?;
    let (workspace, ways) = ways::open(bench, &ground).await?;
    let mut rows = throughput::rows(&ways, &servers, bench.rounds).await?;
    rows.extend(latency::rows(&ways, &servers, bench.rounds).await?);
    if let Some(Ok(ours)) = ways.first().map(|named| &named.way) {
        rows.extend(update::rows(bench, ways::WORKSPACE, ours).await?);
    }
    drop(ways);
    workspace.delete().await?;
    rows.extend(inspected::rows(bench, &ground).await?);
    Ok(rows)
}
