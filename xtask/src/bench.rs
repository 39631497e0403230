//! `cargo xtask bench`: what it costs, beside its peers, in one run on one machine.
//!
//! Every number is a median of several rounds; ratios are between medians of this run, for absolute times say more
//! about the machine than about the programs. Peers run as root, which spares them what we do without it.

mod memory;
mod neighbours;
mod nested;
mod network;
mod peers;
mod pull;
mod samples;
mod sandbox;
mod table;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use cordium_tests::{
    client::Clients,
    fixture, images,
    node::{Node, Options},
    paths,
    registry::Registry,
    user::User,
};

use crate::{
    cargo::{self, Profile},
    guard, setup,
};
use peers::Peers;
use table::{Row, Table};

#[derive(clap::Args)]
pub struct Args {
    /// Rounds of each measurement (those of whole images take a fifth)
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only these: a to i, as in the table
    #[arg(long, value_name = "LETTER")]
    only: Vec<char>,
    /// Print the table, leave SPECIFICATION.md as it is
    #[arg(long)]
    print: bool,
}

/// What all measurements use.
pub struct Bench {
    pub dir: PathBuf,
    pub node: Node,
    pub clients: Clients,
    pub registry: Registry,
    pub peers: Peers,
    pub rounds: usize,
}

pub async fn run(args: Args) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the peers run as root: run `cargo xtask bench` as root");
    let user = setup::ensure().await?;
    let _guard = guard::take(&user)?;
    let built = cargo::build_programs(Profile::Release).await?;
    let dir = fixture::fresh_dir("bench")?;
    let bench = prepare(&built, dir, &user, args.rounds).await?;
    let measured = tokio::select! {
        rows = measure(&bench, &args.only) => rows,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    bench.peers.remove();
    let torn_down = bench.node.tear_down().await;
    let dir = bench.dir.clone();
    drop(bench);
    fixture::remove_dir(&dir)?;
    torn_down?;
    let table = Table { rows: measured?, machine: table::machine() };
    println!("\n{}", table.render());
    if !args.print && args.only.is_empty() {
        publish(&table)?;
    }
    Ok(())
}

async fn prepare(built: &std::path::Path, dir: PathBuf, user: &User, rounds: usize) -> Result<Bench> {
    let programs = paths::staged_from(built)?;
    let registry = fixture::registry(&dir.join("registry"))?;
    let node = Node::start(
        user,
        &programs,
        &dir.join("n"),
        Options { name: "bench".to_owned(), host_ports: vec![network::HOST_PORT], ..Default::default() },
    )?;
    let clients = node.clients().await?;
    let peers = Peers::prepare(&dir.join("peers"), &registry.reference(images::BASE))?;
    Ok(Bench { dir, node, clients, registry, peers, rounds: rounds.max(1) })
}

async fn measure(bench: &Bench, only: &[char]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for letter in 'a'..='i' {
        if !only.is_empty() && !only.contains(&letter) {
            continue;
        }
        println!("── ({letter})");
        rows.extend(match letter {
            'a' => sandbox::start(bench).await?,
            'b' => sandbox::exec(bench).await?,
            'c' => pull::pull(bench).await?,
            'd' => sandbox::hundred(bench).await?,
            'e' => memory::idle(bench).await?,
            'f' => sandbox::stop_and_delete(bench).await?,
            'g' => neighbours::beside_bombs(bench).await?,
            'h' => nested::podman(bench).await?,
            _ => network::network(bench).await?,
        });
    }
    Ok(rows)
}

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Puts the table between its markers.
fn publish(table: &Table) -> Result<()> {
    let path = paths::repository().join("SPECIFICATION.md");
    let old = fs::read_to_string(&path).unwrap_or_else(|_| format!("# Specification\n\n{BEGIN}\n{END}\n"));
    let new =
        between(&old, &table.render()).context("SPECIFICATION.md has no place for the bench's table")?;
    fs::write(&path, new).with_context(|| format!("writing {}", path.display()))?;
    println!("written to {}", path.display());
    Ok(())
}

fn between(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))
}

/// From a request to RUNNING, in the bench.
pub const LIMIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_what_is_between_the_markers() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(between(&text, "new\n"), Some(format!("a\n{BEGIN}\n\nnew\n\n{END}\nb\n")));
        assert_eq!(between("no markers", "new"), None);
    }
}
