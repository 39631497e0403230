//! The start of PID 1: a clean process, the inherited socket, the services.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use cordium_proto::MAX_MESSAGE_BYTES;
use cordium_proto::v1::ShutdownRequest;
use cordium_proto::v1::agent_server::AgentServer;
use cordium_proto::v1::session_server::SessionServer;
use nix::sys::stat::{Mode, umask};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::service::agent::AgentService;
use crate::service::session::SessionService;
use crate::shutdown::shut_down;
use crate::state::State;
use crate::{cgroups, spawn, sys};

const SOCKET: &str = "CORDIUM_AGENT_FD";
const MAX_STREAMS: u32 = 2048;
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
const BLOCKING_THREADS: usize = 4;
const STACK: usize = 512 << 10;

/// Runs until SIGTERM; a sandbox without its PID 1 is gone.
pub fn init() -> Result<()> {
    sys::frugal_malloc();
    sys::default_signals();
    set_umask();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if !nix::unistd::geteuid().is_root() {
        bail!("the agent must be started as root of its sandbox");
    }
    let fd = std::env::var(SOCKET).with_context(|| format!("reading {SOCKET}"))?;
    let fd = fd.parse().with_context(|| format!("{SOCKET}={fd} is not a descriptor"))?;
    let listener = sys::adopt_listener(fd).with_context(|| format!("taking over descriptor {fd}"))?;
    sys::close_on_exec_above_stdio().context("closing descriptors on exec")?;
    // Root of the sandbox may not look into PID 1, take its descriptors or rewrite it, unless the workspace's
    // capabilities have CAP_SYS_PTRACE. Children are dumpable again once they execute.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("making PID 1 undumpable")?;
    spawn::raise_open_files();
    let runtime = runtime()?;
    let served = runtime.block_on(serve(listener));
    // Work on files that is still under way ends with the process.
    runtime.shutdown_background();
    served
}

#[allow(clippy::disallowed_methods, reason = "before any other thread; children inherit it")]
fn set_umask() {
    umask(Mode::from_bits_truncate(0o022));
}

/// Sleeps until SIGTERM: something to keep a container alive with.
pub fn idle() -> Result<()> {
    runtime()?.block_on(async {
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(STACK)
        .thread_keep_alive(Duration::from_millis(500))
        .build()
        .context("starting the event loop")
}

async fn serve(listener: std::os::unix::net::UnixListener) -> Result<()> {
    let state = Arc::new(State::new());
    let children = signal(SignalKind::child()).context("watching children")?;
    let terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    tokio::spawn(reap_always(Arc::clone(&state), children));
    tokio::task::spawn_blocking(|| {
        if let Err(error) = cgroups::settle() {
            tracing::warn!(%error, "nested containers cannot have cgroups of their own");
        }
    });
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<AgentServer<AgentService>>().await;
    health.set_serving::<SessionServer<SessionService>>().await;
    let agent = AgentServer::new(AgentService(Arc::clone(&state)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let session = SessionServer::new(SessionService(Arc::clone(&state)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let incoming = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener)?);
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .add_service(health_service)
        .add_service(agent)
        .add_service(session)
        .serve_with_incoming(incoming);
    tokio::select! {
        served = server => served.context("serving the agent's socket"),
        () = stop_on(terminate, state) => Ok(()),
    }
}

async fn stop_on(mut terminate: Signal, state: Arc<State>) {
    terminate.recv().await;
    shut_down(&state, ShutdownRequest::default()).await;
}

/// Without a reaper the sandbox would fill with zombies: it is started again if it ever breaks.
async fn reap_always(state: Arc<State>, mut children: Signal) {
    loop {
        let reaper = Arc::clone(&state);
        let result = tokio::spawn(async move {
            reaper.reaper.run(children).await;
        })
        .await;
        if let Err(error) = result {
            tracing::error!(%error, "the reaper broke and is started again");
        }
        match signal(SignalKind::child()) {
            Ok(again) => children = again,
            Err(error) => {
                tracing::error!(%error, "children cannot be watched any more");
                return;
            }
        }
    }
}
