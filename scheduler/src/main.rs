//! `cordium-scheduler`: the scheduler as a process of its own, for several supervisors.

mod server;

use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

/// How long open calls may take to end after the signal to stop.
const GRACE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = server::Options::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("CORDIUM_LOG").unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    // Fails only when one is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let targets = server::nodes::targets(&options)?;
    let listener = server::listen::bind(&options).await?;
    let scheduler = cordium_scheduler::start(options.config(), targets).await.context("could not start")?;
    tracing::info!(listen = %options.listen, nodes = options.nodes.len(), "ready");

    let stop = tokio_util::sync::CancellationToken::new();
    let serving = server::serve(&options, listener, &scheduler, stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.context("the server ended"),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    scheduler.begin_shutdown();
    stop.cancel();
    if tokio::time::timeout(GRACE, &mut serving).await.is_err() {
        tracing::warn!("some calls did not end in time");
    }
    if tokio::time::timeout(GRACE, scheduler.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time; they are taken up again at the next start");
    }
    Ok(())
}
