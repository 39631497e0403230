//! The supervisor's side of watching denials.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Denial;
use super::socket::{Line, Request, path};

const ASKING: Duration = Duration::from_secs(5);
const MAX_LINE: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("connecting to the egress broker at {path}: {source}", path = path.display())]
    Connect { path: PathBuf, source: io::Error },
    #[error("the egress broker at {path} runs as user {uid}, not as this process's user", path = path.display())]
    Stranger { path: PathBuf, uid: u32 },
    #[error("asking the egress broker for denials: {0}")]
    Ask(io::Error),
    #[error("receiving denials from the egress broker: {0}")]
    Receive(io::Error),
    #[error("a line from the egress broker is not understood: {0}")]
    Decode(serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Denials of one workspace as they come.
#[derive(Debug)]
pub struct Denials {
    reader: BufReader<UnixStream>,
    line: Vec<u8>,
}

/// Asks the broker that takes registrations at `socket` for the denials of `workspace` with a number higher than `after`,
/// and with `follow` for those to come.
pub async fn watch(socket: &Path, workspace: &str, after: u64, follow: bool) -> Result<Denials, WatchError> {
    let path = path(socket);
    let connect = |source| WatchError::Connect { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).await.map_err(connect)?;
    let uid = stream.peer_cred().map_err(connect)?.uid();
    if uid != rustix::process::geteuid().as_raw() {
        return Err(WatchError::Stranger { path, uid });
    }
    let request = Request { workspace: workspace.to_owned(), after, follow };
    let mut line = serde_json::to_vec(&request).map_err(|error| WatchError::Ask(error.into()))?;
    line.push(b'\n');
    let asked = timeout(ASKING, stream.write_all(&line)).await;
    asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(WatchError::Ask)?;
    Ok(Denials { reader: BufReader::new(stream), line: Vec::new() })
}

impl Denials {
    /// The next one; nothing when there are no more, or the workspace has ended. May be cancelled and called again.
    pub async fn next(&mut self) -> Result<Option<Denial>, WatchError> {
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
        match line? {
            Line::Denial(denial) => Ok(Some(denial.into_owned())),
            Line::Error(error) => Err(WatchError::Refused(error)),
        }
    }
}
