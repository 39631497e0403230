//! `cordium-supervisor serve`: puts the node together, serves it, and ends it in order.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use cordium_entry::Entry;
use cordium_image::{ImageStore, StoreConfig};
use cordium_runtime::{Node, Pool};
use cordium_serve::{tcp, tls::PemFiles, unix};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::ServerTlsConfig;

use crate::{
    broker_process::Broker,
    config::NodeConfig,
    context::{Context, Dirs, SandboxSettings},
    dirs, embedded,
    grpc::{node::NodeService, server, session::SessionService},
    id_ranges::IdRanges,
    node_runtime::{NodeRuntime, image_ids},
    options::ServeOptions,
    phases::Ring,
    store::Store,
    stored_images::StoredImages,
    timeouts::Timeouts,
    volumes::Volumes,
    workspaces::Workspaces,
};

/// How long connections may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(5);
/// Two workspaces that are started one after the other find one each.
const SANDBOXES_AHEAD: usize = 2;

/// Serves until SIGTERM or SIGINT. Running workspaces go on.
pub async fn serve(options: ServeOptions) -> Result<()> {
    if rustix::process::getuid().is_root() && !options.allow_root {
        bail!(
            "the supervisor is meant for an ordinary user, and this is root. Run it as one that has subordinate \
             ids: `cargo xtask setup` makes such a user, then `runuser -u USER -- cordium-supervisor serve`; or \
             give --allow-root"
        );
    }
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let shutdown = CancellationToken::new();
    let config = NodeConfig::load(options.config().as_deref())?;
    let state =
        options.state_dir().context("neither --state-dir nor HOME says where the node's state lies")?;
    let dirs = Dirs { state, run: options.run_dir() };
    let held = dirs::hold(&dirs)?;
    let context = assemble(&options, &config, dirs, shutdown.clone()).await?;
    let workspaces = Arc::new(Workspaces::open(context.clone())?);
    context.tasks.spawn(crate::owners::serve(workspaces.clone(), shutdown.clone()));
    crate::telemetry::start(&config.telemetry, &context)?;
    let sweeping = context.clone();
    context.tasks.spawn(async move { sweeping.volumes.sweep().await });

    let mut servers = JoinSet::new();
    let scheduler = start_servers(&mut servers, &options, &config, &context, &workspaces).await?;
    tracing::info!(node = context.name, state = %context.dirs.state.display(), "serving");

    let failed = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = servers.join_next() => Some(ended),
    };
    tracing::info!("ending; running workspaces go on");
    // First, or it would tell that this node is lost.
    if let Some(scheduler) = &scheduler {
        scheduler.begin_shutdown();
    }
    shutdown.cancel();
    let drained = tokio::time::timeout(DRAIN, async {
        while servers.join_next().await.is_some() {}
        tracing::debug!("connections have ended");
        if let Some(scheduler) = scheduler {
            scheduler.shutdown().await;
            tracing::debug!("the scheduler has ended");
        }
        context.tasks.close();
        context.tasks.wait().await;
    });
    if drained.await.is_err() {
        tracing::warn!("some connections did not end in time and are cut off");
        servers.abort_all();
    }
    tracing::debug!("owners of workspaces have ended");
    context.runtime.end().await;
    tracing::debug!("no sandbox is made ahead any more");
    let store = context.store.clone();
    tokio::task::spawn_blocking(move || store.close()).await.context("closing the node's database")?;
    tracing::debug!("the database is closed");
    drop(held);
    match failed {
        Some(Some(Ok(Err(error)))) => Err(error),
        Some(_) => bail!("a server has ended by itself"),
        None => Ok(()),
    }
}

async fn assemble(
    options: &ServeOptions,
    config: &NodeConfig,
    dirs: Dirs,
    shutdown: CancellationToken,
) -> Result<Arc<Context>> {
    let program = std::env::current_exe().context("finding this program")?;
    let agent = match &options.agent {
        Some(agent) => std::path::absolute(agent).context("finding the agent")?,
        None => program.with_file_name("cordium-agent"),
    };
    if !agent.is_file() {
        bail!(
            "the agent {} is not there: build it (`cargo build -p cordium-agent`), or name it with --agent",
            agent.display()
        );
    }
    let broker =
        Broker { program: program.clone(), socket: dirs.broker_socket(), log: dirs.run.join("broker.log") };
    let running = broker.ensure().await?;
    let tasks = TaskTracker::new();
    tasks.spawn(broker.watch(running, shutdown.clone()));

    let node = Node::probe().context("looking at what this machine gives its sandboxes")?;
    let node = node.with_ranges(config.id_ranges.unwrap_or(cordium_runtime::MAX_RANGES));
    let images = open_images(config, &dirs, &node, program)?;
    let ring = Arc::new(Ring::default());
    let store = Store::open(&dirs.state.join("node.db"), ring.clone())?;
    let sandbox = SandboxSettings {
        agent,
        broker_socket: dirs.broker_socket(),
        host_ports: config.host_ports.clone(),
        egress: config.egress.into(),
        protected_networks: config.protected_networks.clone(),
    };
    let pool = Pool::new(node.clone(), config.sandboxes_ahead.unwrap_or(SANDBOXES_AHEAD));
    for warning in node.warnings() {
        tracing::warn!(warning, "this node");
    }
    let ids = IdRanges::new(node.ranges().clone());
    let runtime = Arc::new(NodeRuntime { pool, node, images: images.clone() });
    let volumes = Volumes::new(dirs.volumes(), runtime.clone());
    Ok(Arc::new(Context {
        name: options.name(),
        dirs,
        store: Arc::new(store),
        ring,
        images: Arc::new(StoredImages(images)),
        runtime,
        volumes,
        ids,
        timeouts: Timeouts::default(),
        sandbox,
        shutdown,
        tasks,
    }))
}

fn open_images(config: &NodeConfig, dirs: &Dirs, node: &Node, unpacker: PathBuf) -> Result<ImageStore> {
    let ranges = node.ranges();
    let mut store = StoreConfig::new(image_ids(ranges.home()), unpacker);
    store.ranges = ranges.all().iter().skip(1).map(image_ids).collect();
    store.limits = config.image_limits.clone();
    store.timeouts = config.image_timeouts.clone();
    store.registries = config.registries();
    if let Some(layers) = config.parallel_layers {
        store.parallel_layers = layers;
    }
    ImageStore::open(&dirs.state.join("images"), store).context("opening the image store")
}

type Servers = JoinSet<Result<()>>;

async fn start_servers(
    servers: &mut Servers,
    options: &ServeOptions,
    config: &NodeConfig,
    context: &Arc<Context>,
    workspaces: &Arc<Workspaces>,
) -> Result<Option<embedded::Scheduler>> {
    let shutdown = context.shutdown.clone();
    let node = NodeService::new(context.clone(), workspaces.clone(), config.base_image.clone());
    let session = SessionService::new(workspaces.clone(), shutdown.clone());
    let socket = context.dirs.run.join("cordium.sock");
    let peers = unix::own_peers(unix::bind(&socket).await?);

    if let Some(address) = options.listen_tls {
        let router = server::for_remote_schedulers(node.clone(), session.clone(), tls(options)?)?;
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let incoming = tcp::connections(listener);
        spawn(servers, router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned()));
    }
    let scheduler = if options.no_scheduler {
        let none = None::<cordium_scheduler::ControlService>;
        let router = server::for_clients(node, none, session, None).await?;
        spawn(servers, router.serve_with_incoming_shutdown(peers, shutdown.cancelled_owned()));
        None
    } else {
        let (channel, connections) = embedded::pipe();
        let own = server::for_schedulers(node.clone(), session);
        spawn(servers, own.serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned()));
        let scheduler = embedded::Scheduler::start(&context.dirs.state, &context.name, channel).await?;
        let entry = entry(config, context, socket).await?.map(|entry| entry.service());
        let control = scheduler.control();
        let router = server::for_clients(node, Some(control.clone()), control, entry).await?;
        spawn(servers, router.serve_with_incoming_shutdown(peers, shutdown.cancelled_owned()));
        Some(scheduler)
    };
    Ok(scheduler)
}

/// The HTTP entry, unless the configuration has none.
async fn entry(config: &NodeConfig, context: &Context, socket: PathBuf) -> Result<Option<Entry>> {
    if config.entry_port == Some(0) {
        return Ok(None);
    }
    let key = context.dirs.state.join("entry.key");
    let entry = Entry::new(socket, &key, config.entry_port.unwrap_or_default(), context.shutdown.clone())?;
    if config.entry_port.is_some() {
        entry.listen().await?;
    }
    Ok(Some(entry))
}

fn spawn(
    servers: &mut Servers,
    server: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
) {
    servers.spawn(async move { server.await.context("serving") });
}

fn tls(options: &ServeOptions) -> Result<ServerTlsConfig> {
    let (Some(cert), Some(key), Some(authority)) =
        (&options.tls_cert, &options.tls_key, &options.tls_client_ca)
    else {
        bail!("--listen-tls needs --tls-cert, --tls-key and --tls-client-ca");
    };
    Ok(PemFiles { cert, key, authority }.server()?)
}
