//! Where the supervisor watches denials: one request line, then a line for each denial.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Denial, Ring, Rings};

const MAX_WATCHERS: usize = 64;
const MAX_REQUEST: u64 = 1024;
const ASKING: Duration = Duration::from_secs(5);
/// A watcher that takes nothing for so long is let go.
const TAKING: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// What a watcher asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    pub workspace: String,
    /// Only denials with a higher number.
    #[serde(default)]
    pub after: u64,
    /// Go on with new ones until the workspace ends.
    #[serde(default)]
    pub follow: bool,
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Line<'a> {
    Denial(Cow<'a, Denial>),
    Error(String),
}

/// The watchers' socket beside the registration socket.
pub(crate) fn path(socket: &Path) -> PathBuf {
    let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
    socket.with_file_name(format!("{stem}-denials.sock"))
}

/// Binds it. The caller holds the lock of the registration socket: one that is there is of a broker that is gone.
pub(crate) fn bind(socket: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let path = path(socket);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves watchers until it is dropped.
pub(crate) async fn serve(listener: UnixListener, rings: Arc<Rings>) {
    let mut watchers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if watchers.len() < MAX_WATCHERS => {
                    let rings = Arc::clone(&rings);
                    watchers.spawn(async move {
                        if let Err(error) = tell(stream, &rings).await {
                            debug!(%error, "a watcher of denials is gone");
                        }
                    });
                }
                Ok(_) => warn!("watcher of denials refused: {MAX_WATCHERS} watch already"),
                Err(error) => {
                    warn!(%error, "accepting a watcher of denials");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = watchers.join_next() => {}
        }
    }
}

async fn tell(stream: UnixStream, rings: &Rings) -> io::Result<()> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(MAX_REQUEST);
    let mut line = Vec::new();
    timeout(ASKING, reader.read_until(b'\n', &mut line)).await??;
    let request: Request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => {
            return send(&mut writer, &Line::Error(format!("the request is not understood: {error}"))).await;
        }
    };
    // Not held while watching: a watcher does not keep the ring of a workspace that has ended.
    let Some(ring) = rings.find(&request.workspace).as_ref().map(Arc::downgrade) else {
        let error = format!("workspace {:?} is not registered with the egress broker", request.workspace);
        return send(&mut writer, &Line::Error(error)).await;
    };
    let mut after = request.after;
    let Some(mut newest) = ring.upgrade().map(|ring| ring.newest()) else { return Ok(()) };
    loop {
        let found = ring.upgrade().map_or_else(Vec::new, |ring: Arc<Ring>| ring.after(after));
        for denial in found {
            after = denial.number;
            send(&mut writer, &Line::Denial(Cow::Borrowed(&denial))).await?;
        }
        if !request.follow {
            return Ok(());
        }
        tokio::select! {
            changed = newest.changed() => if changed.is_err() { return Ok(()) },
            // Nothing more is said by a watcher: this is its end.
            _ = reader.read_u8() => return Ok(()),
        }
    }
}

async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), line: &Line<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    timeout(TAKING, writer.write_all(&text)).await?
}
