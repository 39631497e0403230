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
mod latency;
mod servers;
mod throughput;
mod ways;

use anyhow::Result;

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
    drop(ways);
    workspace.delete().await?;
    Ok(rows)
}
