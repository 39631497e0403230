//! Who fills the disk is ended, and can be mended.

use std::sync::Arc;

use cordium_tests::v1::failure::Type;
use cordium_tests::v1::{StoppingReason, WorkspaceState as State, WorkspaceStatus};
use cordium_tests::{Context, Fixture, Result, Workspace, ensure, ensure_eq, json};

use crate::observe::{Neighbour, begin, has_warning, nothing_left, status_with, usage};

/// Waits until the run has ended for its storage, and returns the status.
pub async fn ended_for_storage(w: &Workspace, words: &str) -> Result<WorkspaceStatus> {
    let status = status_with(w, "end of the run", |status| status.state() == State::Stopped).await?;
    let failure = status.failure.clone().context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::StorageExceeded(_))), "{failure:?}");
    ensure!(failure.message.contains(words), "{}", failure.message);
    ensure_eq!(status.last_stopping_reason(), StoppingReason::Error);
    Ok(status)
}

pub async fn a_disk_filler(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-d").await?;
    let supervisor = f.node.pid();
    let w = f.run("diskfill", &f.small(json!({"limit": {"storage": {"megabytes": 32}}}))).await?;
    status_with(&w, "a first measurement", |status| usage(status).storage_measured_at.is_some()).await?;
    w.ok("dd if=/dev/zero of=/workspace/small bs=1M count=8").await?;
    // More than the limit, but not more than this machine can spare.
    let filler = begin(&w, "dd if=/dev/zero of=/workspace/big bs=1M count=64; sleep 1000");
    ended_for_storage(&w, "its limit is 32 MiB (limit.storage)").await?;
    filler.abort();
    neighbour.answers_now().await?;
    ensure_eq!(f.node.pid(), supervisor);
    // The files are there, and the workspace starts so that they can be removed.
    w.start().await?;
    let status = status_with(&w, "the warning", |status| has_warning(status, "over its limit")).await?;
    // How much there is depends on how far the filler came before its end.
    ensure!(usage(&status).storage_bytes > 32 << 20, "{:?}", usage(&status));
    w.ok("rm /workspace/big; sync").await?;
    status_with(&w, "less storage used", |status| usage(status).storage_bytes < 32 << 20).await?;
    ensure_eq!(w.status().await?.state(), State::Running);
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

pub async fn an_inode_filler(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-i").await?;
    let w = f.run("inodes", &f.small(json!({"limit": {"inodes": 1024}}))).await?;
    let script = "mkdir /workspace/many; cd /workspace/many; i=0; while [ $i -lt 3000 ]; do : > $i; i=$((i+1)); done; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "its limit is 1024 (limit.inodes)").await?;
    filler.abort();
    neighbour.answers_now().await?;
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

pub async fn a_file_without_a_name(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("unnamed", &f.small(json!({"limit": {"storage": {"megabytes": 32}}}))).await?;
    let script = "exec 9> /workspace/x; rm /workspace/x; dd if=/dev/zero bs=1M count=64 >&9; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "limit.storage").await?;
    filler.abort();
    w.delete().await?;
    nothing_left(&f.node, &w)
}

pub async fn nesting_without_end(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("deep", &f.small(json!({"limit": {"inodes": 4096}}))).await?;
    let script =
        "cd /workspace; i=0; while [ $i -lt 900 ]; do mkdir d; cd -P d; i=$((i+1)); done; sleep 1000";
    let digger = begin(&w, script);
    ended_for_storage(&w, "nested more than 800 deep").await?;
    digger.abort();
    w.delete().await?;
    nothing_left(&f.node, &w)
}
