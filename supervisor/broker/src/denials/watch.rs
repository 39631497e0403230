//! The supervisor's side of watching.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::owners::Answer;
use super::socket::{Line, Request, path};
use super::{Denial, Owner, Question};
use crate::records::Record;

const ASKING: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("connecting to the egress broker at {path}: {source}", path = path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the egress broker at {path} runs as user {uid}, not as this process's user", path = path.display())]
    Stranger { path: PathBuf, uid: u32 },
    #[error("asking the egress broker: {0}")]
    Ask(io::Error),
    #[error("receiving from the egress broker: {0}")]
    Receive(io::Error),
    #[error("a line from the egress broker is not understood: {0}")]
    Decode(serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Denials of one workspace as they come.
#[derive(Debug)]
pub struct Denials(Lines);

/// Records of all workspaces as they come.
#[derive(Debug)]
pub struct Records(Lines);

/// Whose connections are refused?
#[derive(Debug)]
pub struct Questions(Lines);

#[derive(Debug)]
struct Lines {
    reader: BufReader<UnixStream>,
    line: Vec<u8>,
}

/// Asks the broker that takes registrations at `socket` for the denials of `workspace` with a number higher than `after`,
/// and with `follow` for those to come.
pub async fn watch(socket: &Path, workspace: &str, after: u64, follow: bool) -> Result<Denials, WatchError> {
    let request = Request { workspace: workspace.to_owned(), after, follow, records: None, questions: false };
    Lines::ask(socket, &request).await.map(Denials)
}

/// Asks for the records that come after number `after` of `epoch`, and for those to come.
pub async fn watch_records(socket: &Path, epoch: u64, after: u64) -> Result<Records, WatchError> {
    let records = Some(epoch);
    let request = Request { workspace: String::new(), after, follow: true, records, questions: false };
    Lines::ask(socket, &request).await.map(Records)
}

/// Offers to answer whose connections are refused.
pub async fn questions(socket: &Path) -> Result<Questions, WatchError> {
    let request =
        Request { workspace: String::new(), after: 0, follow: true, records: None, questions: true };
    Lines::ask(socket, &request).await.map(Questions)
}

impl Denials {
    /// The next one; nothing when there are no more, or the workspace has ended. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<Denial>, WatchError> {
        match self.0.next().await? {
            Some(Line::Denial(denial)) => Ok(Some(denial.into_owned())),
            other => end(other),
        }
    }
}

impl Records {
    /// The next one; nothing when the broker has ended. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<Record>, WatchError> {
        match self.0.next().await? {
            Some(Line::Record(record)) => Ok(Some(record.into_owned())),
            other => end(other),
        }
    }
}

impl Questions {
    /// The next one; nothing when the broker has ended, or asks somebody else. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<Question>, WatchError> {
        match self.0.next().await? {
            Some(Line::Question(question)) => Ok(Some(question)),
            other => end(other),
        }
    }

    /// Answers one. What comes too late is of no use to anybody.
    pub async fn answer(&mut self, id: u64, owner: Owner) -> Result<(), WatchError> {
        let mut line =
            serde_json::to_vec(&Answer { id, owner }).map_err(|error| WatchError::Ask(error.into()))?;
        line.push(b'\n');
        let said = timeout(ASKING, self.0.reader.get_mut().write_all(&line)).await;
        said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(WatchError::Ask)
    }
}

fn end<T>(line: Option<Line<'_>>) -> Result<Option<T>, WatchError> {
    match line {
        None => Ok(None),
        Some(Line::Error(error)) => Err(WatchError::Refused(error)),
        Some(_) => Err(WatchError::Receive(io::ErrorKind::InvalidData.into())),
    }
}

impl Lines {
    async fn ask(socket: &Path, request: &Request) -> Result<Self, WatchError> {
        let path = path(socket);
        let connect = |source| WatchError::Connect { path: path.clone(), source };
        let mut stream = UnixStream::connect(&path).await.map_err(connect)?;
        let uid = stream.peer_cred().map_err(connect)?.uid();
        if uid != rustix::process::geteuid().as_raw() {
            return Err(WatchError::Stranger { path, uid });
        }
        let mut line = serde_json::to_vec(request).map_err(|error| WatchError::Ask(error.into()))?;
        line.push(b'\n');
        let asked = timeout(ASKING, stream.write_all(&line)).await;
        asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(WatchError::Ask)?;
        Ok(Self { reader: BufReader::new(stream), line: Vec::new() })
    }

    async fn next(&mut self) -> Result<Option<Line<'static>>, WatchError> {
        let limit = MAX_LINE.saturating_sub(self.line.len() as u64);
        let read = (&mut self.reader).take(limit).read_until(b'\n', &mut self.line).await;
        read.map_err(WatchError::Receive)?;
        if self.line.last() != Some(&b'\n') {
            return if self.line.is_empty() {
                Ok(None)
            } else {
                Err(WatchError::Receive(io::ErrorKind::UnexpectedEof.into()))
            };
        }
        let line = serde_json::from_slice(&self.line).map_err(WatchError::Decode);
        self.line.clear();
        line.map(Some)
    }
}
