//! Where the supervisor watches denials and the records for the audit log, and is asked whose connections are refused: one
//! request line, then a line for each.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::owners::{Answer, Owners, Question};
use super::{Denial, Ring, Rings};
use crate::records::{Journal, Record};

/// Of one workspace's denials: people, mostly.
const MAX_WATCHERS: usize = 64;
/// Of all records: schedulers. They have places of their own.
const MAX_READERS: usize = 16;
/// Who has not said what it is.
const MAX_STRANGERS: usize = 16;
/// Records that are taken from the journal at a time.
const PAGE: usize = 256;
const MAX_REQUEST: u64 = 1024;
const MAX_ANSWER: u64 = 4096;
const ASKING: Duration = Duration::from_secs(5);
/// A watcher that takes nothing for so long is let go.
const TAKING: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// What a watcher asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Request {
    #[serde(default)]
    pub workspace: String,
    /// Only denials with a higher number.
    #[serde(default)]
    pub after: u64,
    /// Go on with new ones until the workspace ends.
    #[serde(default)]
    pub follow: bool,
    /// Not one workspace's denials, but all records after number `after` of this epoch, and those to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Questions, which the peer answers with lines of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub questions: bool,
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Line<'a> {
    Denial(Cow<'a, Denial>),
    Record(Cow<'a, Record>),
    Question(Question),
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

/// What there is to be watched.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    pub rings: Arc<Rings>,
    pub journal: Arc<Journal>,
    pub owners: Arc<Owners>,
}

/// How many may watch what.
struct Places {
    watchers: Semaphore,
    readers: Semaphore,
}

/// Serves watchers until it is dropped.
pub(crate) async fn serve(listener: UnixListener, sources: Sources) {
    let places =
        Arc::new(Places { watchers: Semaphore::new(MAX_WATCHERS), readers: Semaphore::new(MAX_READERS) });
    let mut watchers = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if watchers.len() < MAX_WATCHERS + MAX_READERS + MAX_STRANGERS => {
                    let (sources, places) = (sources.clone(), Arc::clone(&places));
                    watchers.spawn(async move {
                        if let Err(error) = tell(stream, &sources, &places).await {
                            debug!(%error, "a watcher is gone");
                        }
                    });
                }
                Ok(_) => warn!("watcher refused: too many watch already"),
                Err(error) => {
                    warn!(%error, "accepting a watcher");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = watchers.join_next() => {}
        }
    }
}

async fn tell(stream: UnixStream, sources: &Sources, places: &Places) -> io::Result<()> {
    if stream.peer_cred()?.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader).take(MAX_REQUEST);
    let mut line = Vec::new();
    timeout(ASKING, reader.read_until(b'\n', &mut line)).await??;
    let request: Request = match serde_json::from_slice(&line) {
        Ok(request) => request,
        Err(error) => return refuse(&mut writer, format!("the request is not understood: {error}")).await,
    };
    let (places, most) = if request.records.is_some() || request.questions {
        (&places.readers, MAX_READERS)
    } else {
        (&places.watchers, MAX_WATCHERS)
    };
    let Ok(_place) = places.try_acquire() else {
        return refuse(&mut writer, format!("{most} watch already")).await;
    };
    if request.questions {
        return questions(reader.into_inner(), writer, &sources.owners).await;
    }
    tokio::select! {
        told = async {
            match request.records {
                Some(epoch) => records(&mut writer, &sources.journal, epoch, request.after).await,
                None => denials(&mut writer, &sources.rings, &request).await,
            }
        } => told,
        // Nothing more is said by a watcher: this is its end.
        _ = reader.read_u8() => Ok(()),
    }
}

async fn denials(writer: &mut OwnedWriteHalf, rings: &Rings, request: &Request) -> io::Result<()> {
    // Not held while watching: a watcher does not keep the ring of a workspace that has ended.
    let Some(ring) = rings.find(&request.workspace).as_ref().map(Arc::downgrade) else {
        let error = format!("workspace {:?} is not registered with the egress broker", request.workspace);
        return refuse(writer, error).await;
    };
    let mut after = request.after;
    let Some(mut newest) = ring.upgrade().map(|ring| ring.newest()) else { return Ok(()) };
    loop {
        let found = ring.upgrade().map_or_else(Vec::new, |ring: Arc<Ring>| ring.after(after));
        for denial in found {
            after = denial.number;
            send(writer, &Line::Denial(Cow::Borrowed(&denial))).await?;
        }
        if !request.follow || newest.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn records(
    writer: &mut OwnedWriteHalf,
    journal: &Journal,
    mut epoch: u64,
    mut after: u64,
) -> io::Result<()> {
    let mut newest = journal.newest();
    loop {
        newest.mark_unchanged();
        loop {
            let page = journal.after(epoch, after, PAGE);
            let Some(last) = page.last() else { break };
            (epoch, after) = (last.epoch, last.number);
            for record in &page {
                send(writer, &Line::Record(Cow::Borrowed(record))).await?;
            }
        }
        if newest.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Until one of both sides ends, or another supervisor has come.
async fn questions(
    mut reader: BufReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
    owners: &Owners,
) -> io::Result<()> {
    let mut asked = owners.listen();
    let ask = async {
        while let Some(question) = asked.recv().await {
            send(&mut writer, &Line::Question(question)).await?;
        }
        Ok(())
    };
    let hear = async {
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = (&mut reader).take(MAX_ANSWER).read_until(b'\n', &mut line).await?;
            if length == 0 {
                return Ok(());
            }
            owners.answer(serde_json::from_slice::<Answer>(&line)?);
        }
    };
    tokio::select! {
        ended = ask => ended,
        ended = hear => ended,
    }
}

async fn refuse(writer: &mut OwnedWriteHalf, error: String) -> io::Result<()> {
    send(writer, &Line::Error(error)).await
}

async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), line: &Line<'_>) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    timeout(TAKING, writer.write_all(&text)).await?
}
