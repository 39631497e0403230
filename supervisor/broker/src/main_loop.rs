//! The broker process from its first line to its last.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tracing::{error, info, warn};

use crate::BrokerOpts;
use crate::confine::{self, ConfineError};
use crate::denials;
use crate::dns::Upstreams;
use crate::flow::flow_limit;
use crate::inspect::Roots;
use crate::node;
use crate::server::{Shared, serve};
use crate::splice::Pipes;
use crate::udp;

const MAX_THREADS: usize = 4;
const BACKLOG: i32 = 128;

#[derive(Debug, thiserror::Error)]
enum BrokerError {
    #[error("the socket path {0} has no folder or no file name")]
    Path(PathBuf),
    #[error("making the folder {path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("locking {path}: {source}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("another broker serves {0} already")]
    Running(PathBuf),
    #[error("binding {path}: {source}")]
    Bind { path: PathBuf, source: io::Error },
    #[error("binding the socket for watchers of denials beside {path}: {source}")]
    Watchers { path: PathBuf, source: io::Error },
    #[error("opening a socket to the node's routing tables: {0}")]
    Routes(io::Error),
    #[error("confining the broker: {0}")]
    Confine(#[from] ConfineError),
    #[error("starting the runtime: {0}")]
    Runtime(io::Error),
}

/// Runs the broker until SIGTERM or SIGINT.
pub fn broker_main(opts: BrokerOpts) -> ExitCode {
    let subscriber = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).with_target(false);
    // A caller that logs already keeps its own subscriber.
    let _ = subscriber.try_init();
    match run(opts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(opts: BrokerOpts) -> Result<(), BrokerError> {
    let descriptors = confine::raise_descriptor_limit();
    let bound = Bound::new(&opts.socket)?;
    let watchers = denials::bind(&bound.path)
        .map_err(|source| BrokerError::Watchers { path: bound.path.clone(), source })?;
    let roots = Roots::of_node();
    node::open_routes().map_err(BrokerError::Routes)?;
    confine::confine(&bound.folder)?;
    if node::binds_anything() {
        warn!(
            "net.ipv4.ip_nonlocal_bind is set: no address can be told from the node's own, all flows are denied"
        );
    }
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(MAX_THREADS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(1)
        .thread_name("broker")
        .enable_all()
        .build()
        .map_err(BrokerError::Runtime)?;
    let descriptors = descriptors.unwrap_or(u64::MAX);
    let (flow_limit, udp_limit) = (flow_limit(descriptors), udp::flow_limit(descriptors));
    let upstreams = Arc::new(Upstreams::new(opts.upstream));
    let pipes = Arc::new(Pipes::default());
    let sources = denials::Sources::default();
    let denials::Sources { rings, journal, owners } = sources.clone();
    let udp_left = Arc::new(Semaphore::new(udp::ALL_FLOWS));
    let shared =
        Arc::new(Shared { pipes, upstreams, rings, journal, owners, roots, flow_limit, udp_limit, udp_left });
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(BrokerError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(BrokerError::Runtime)?;
        let listener =
            bound.listener.try_clone().and_then(crate::sys::watch).map_err(BrokerError::Runtime)?;
        let watchers = tokio::net::UnixListener::from_std(watchers).map_err(BrokerError::Runtime)?;
        info!(socket = %bound.path.display(), flow_limit, udp_limit, threads, "broker ready");
        tokio::select! {
            () = serve(listener, shared) => {}
            () = denials::serve(watchers, sources) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("broker ends");
        Ok(())
    })
}

/// The registration socket and the lock that makes this broker the only one; the socket's name goes with it.
struct Bound {
    folder: PathBuf,
    path: PathBuf,
    listener: OwnedFd,
    _lock: File,
}

impl Bound {
    fn new(path: &Path) -> Result<Self, BrokerError> {
        let bad = || BrokerError::Path(path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).ok_or_else(bad)?;
        let name = path.file_name().ok_or_else(bad)?.to_string_lossy().into_owned();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| BrokerError::Folder { path: folder.to_owned(), source })?;
        let lock = lock(&folder.join(format!("{name}.lock")), path)?;
        if answers(path) {
            return Err(BrokerError::Running(path.to_owned()));
        }
        let listener =
            listen_at(folder, path).map_err(|source| BrokerError::Bind { path: path.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned(), path: path.to_owned(), listener, _lock: lock })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(%error, socket = %self.path.display(), "removing the socket");
        }
    }
}

fn lock(path: &Path, socket: &Path) -> Result<File, BrokerError> {
    let failed = |source| BrokerError::Lock { path: path.to_owned(), source };
    let file =
        OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BrokerError::Running(socket.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn answers(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .is_ok_and(|socket| connect(&socket, &address).is_ok())
}

/// Listens under a name of its own and moves it into place, so that whoever sees the name can connect.
fn listen_at(folder: &Path, path: &Path) -> io::Result<OwnedFd> {
    let temporary = folder.join(format!(".b{}", std::process::id()));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    // A path that is too long for others to connect to is refused here.
    SocketAddrUnix::new(path)?;
    bind(&socket, &SocketAddrUnix::new(&temporary)?)?;
    std::fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    std::fs::rename(&temporary, path)?;
    Ok(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let stale = folder.path().join("stale.sock");
        drop(listen_at(folder.path(), &stale).unwrap());
        assert!(stale.exists() && !answers(&stale));
        let first = Bound::new(&stale).unwrap();
        assert!(answers(&stale));
        assert!(matches!(Bound::new(&stale), Err(BrokerError::Running(_))));
        drop(first);
        assert!(!stale.exists());
        assert!(Bound::new(&stale).is_ok());
    }

    #[test]
    fn a_path_without_a_folder_or_too_long_is_refused() {
        assert!(matches!(Bound::new(Path::new("x.sock")), Err(BrokerError::Path(_))));
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120));
        assert!(matches!(Bound::new(&long), Err(BrokerError::Bind { .. })));
    }
}
