//! Fork bombs, and processes that nobody waits for.

use std::sync::Arc;

use cordium_tests::v1::{WorkspaceState as State, WorkspaceStatus};
use cordium_tests::{Context, Fixture, Result, Workspace, ensure, ensure_eq, json};
use serde_json::Value;

use crate::observe::{Neighbour, begin, nothing_left, status_with, usage};

pub async fn a_fork_bomb(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-f").await?;
    let supervisor = f.node.pid();
    let limit = json!({"limit": {"pids": 64, "memory": {"megabytes": 256}, "cpu": {"millicores": 1000}}});
    let w = f.run("forkbomb", &f.base(limit)).await?;
    // It has no end, so nobody waits for it. A shell would give up.
    let bomb = begin(&w, "exec perl -e 'while (1) { fork }'");
    let refusing = |status: &WorkspaceStatus| usage(status).pids_refused > 100;
    let status = status_with(&w, "refused forks", refusing).await?;
    ensure!(usage(&status).pids <= 64, "{:?}", usage(&status));
    neighbour.answers_now().await?;
    ensure_eq!(w.status().await?.state(), State::Running);
    ensure_eq!(f.node.pid(), supervisor);
    w.stop().await?;
    bomb.abort();
    // Nothing of it is left for the next run.
    w.start().await?;
    ensure_eq!(w.ok("echo again").await?, "again");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

/// Orphans that end at once, each by a process that ends at once itself. What the limit refuses is tried again.
const ORPHANS: &str = r#"exec perl -e '
    sub begin { my $pid; select undef, undef, undef, 0.01 until defined($pid = fork); $pid }
    for (1 .. 20000) { my $pid = begin(); if (!$pid) { begin(); exit } waitpid $pid, 0; $done++ }
    print "$done\n"'"#;
/// Keeps children that have ended, says so, and collects them when it is told to.
const KEEPER: &str = r#"exec perl -e '
    for (1 .. 3000) { my $pid = fork; defined $pid or die "child $_: $!"; exit if !$pid; push @own, $pid }
    open my $kept, ">", "/tmp/kept";
    select undef, undef, undef, 0.05 until -e "/tmp/collect";
    print scalar(grep { waitpid($_, 0) == $_ } @own), "\n"'"#;
/// Has children that end at once until it is refused more, and leaves them to PID 1 by its own end.
const LEAVER: &str =
    r#"exec perl -e 'while (defined(my $pid = fork)) { exit if !$pid; $count++ } print "$count $!\n"'"#;

/// For what a workspace whose processes end by the thousand has to do.
fn busy() -> Value {
    json!({"limit": {"pids": 4096, "memory": {"megabytes": 512}}})
}

/// The largest part of memory that the agent ever had, in KiB.
async fn agent_peak(w: &Workspace) -> Result<u64> {
    Ok(w.ok("awk '/^VmHWM/ {print $2}' /proc/1/status").await?.parse()?)
}

/// PID 1 has collected all that was left to it.
async fn is_collected(w: &Workspace) -> Result<()> {
    let ended = "cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == \"Z\" && $4 == 1' | wc -l";
    w.ok(&format!("for i in $(seq 600); do [ $({ended}) = 0 ] && exit; sleep 0.1; done; exit 1")).await?;
    status_with(w, "few processes", |status| usage(status).pids < 100).await?;
    Ok(())
}

pub async fn a_flood_of_orphans(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-o").await?;
    let w = f.run("orphans", &f.base(busy())).await?;
    let before = agent_peak(&w).await?;
    let flood = begin(&w, ORPHANS);
    let mut answers = 0;
    while !flood.is_finished() {
        ensure_eq!(w.ok("echo here").await?, "here");
        answers += 1;
    }
    let output = flood.await??;
    ensure_eq!((output.code(), output.out().trim_end()), (0, "20000"));
    ensure!(answers > 1, "no command was answered while orphans came");
    is_collected(&w).await?;
    let grown = agent_peak(&w).await?.saturating_sub(before);
    ensure!(grown < 16 << 10, "PID 1 grew by {grown} KiB");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

pub async fn processes_that_nobody_collects(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-z").await?;
    let w = f.run("zombies", &f.base(busy())).await?;
    let before = agent_peak(&w).await?;
    let keeper = begin(&w, KEEPER);
    let wait = "for i in $(seq 600); do [ -e /tmp/kept ] && exit; sleep 0.1; done; exit 1";
    w.ok(wait).await?;
    let held = usage(&status_with(&w, "ended processes", |status| usage(status).pids >= 3000).await?);
    ensure!(held.pids <= 4096, "{held:?}");
    // What is left of the limit goes to somebody who leaves it to PID 1, all at once.
    let left = w.ok(LEAVER).await?;
    let (count, why) = left.split_once(' ').context("no count and reason")?;
    ensure_eq!(why, "Resource temporarily unavailable");
    ensure!((500..=1096).contains(&count.parse::<u32>()?), "{left}");
    neighbour.answers_now().await?;
    // PID 1 has taken those, and none that were another's.
    w.ok("touch /tmp/collect").await?;
    let collected = keeper.await??;
    ensure_eq!((collected.code(), collected.out().trim_end()), (0, "3000"));
    is_collected(&w).await?;
    let left = w.ok(LEAVER).await?;
    ensure!(
        left.split_once(' ').is_some_and(|(count, _)| count.parse().is_ok_and(|n: u32| n > 3000)),
        "{left}"
    );
    is_collected(&w).await?;
    let grown = agent_peak(&w).await?.saturating_sub(before);
    ensure!(grown < 16 << 10, "PID 1 grew by {grown} KiB");
    // A run ends with all of them.
    w.ok("rm /tmp/kept /tmp/collect").await?;
    let keeper = begin(&w, KEEPER);
    w.ok(wait).await?;
    w.stop().await?;
    keeper.abort();
    w.start().await?;
    ensure_eq!(w.ok("echo again").await?, "again");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}
