//! Where a layer's bytes go on their way to the unpacker: counted, hashed, bounded.

use std::io::ErrorKind;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::digest::Digest;
use crate::error::LayerError;
use crate::progress::{Progress, ProgressSink, Step};

pub(crate) struct LayerSink {
    socket: UnixStream,
    /// The unpacker has stopped reading. Its own answer says why; the digest may still say more.
    closed: bool,
    hasher: Sha256,
    got: u64,
    expected: u64,
    told: u64,
    layer: String,
    progress: ProgressSink,
}

/// Progress is told each time this many bytes came.
const TELL_EVERY: u64 = 256 << 10;

impl LayerSink {
    pub(crate) fn new(socket: UnixStream, expected: u64, layer: &Digest, progress: ProgressSink) -> Self {
        Self {
            socket,
            closed: false,
            hasher: Sha256::new(),
            got: 0,
            expected,
            told: 0,
            layer: layer.to_string(),
            progress,
        }
    }

    pub(crate) fn got(&self) -> u64 {
        self.got
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.got == self.expected
    }

    pub(crate) async fn write(&mut self, chunk: &[u8]) -> Result<(), LayerError> {
        self.got += chunk.len() as u64;
        if self.got > self.expected {
            return Err(LayerError::TooLong { expected: self.expected });
        }
        self.hasher.update(chunk);
        if !self.closed
            && let Err(error) = self.socket.write_all(chunk).await
        {
            match error.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => self.closed = true,
                _ => return Err(LayerError::Helper { step: "cannot be fed", reason: error.to_string() }),
            }
        }
        if self.got - self.told >= TELL_EVERY || self.got == self.expected {
            self.told = self.got;
            let (layer, done, total) = (Some(self.layer.clone()), self.got, self.expected);
            (self.progress)(Progress { layer, step: Step::Fetching, done, total });
        }
        Ok(())
    }

    /// Checks what came and tells the unpacker that this was all.
    pub(crate) async fn finish(mut self, digest: Option<&Digest>) -> Result<(), LayerError> {
        if self.got != self.expected {
            return Err(LayerError::Truncated { got: self.got, expected: self.expected });
        }
        let actual = Digest::finish(self.hasher);
        if let Some(expected) = digest
            && *expected != actual
        {
            return Err(LayerError::Digest { expected: expected.to_string(), actual: actual.to_string() });
        }
        match self.socket.shutdown().await {
            Err(error) if !self.closed && error.kind() != ErrorKind::NotConnected => {
                Err(LayerError::Helper { step: "cannot be fed", reason: error.to_string() })
            }
            _ => Ok(()),
        }
    }
}
