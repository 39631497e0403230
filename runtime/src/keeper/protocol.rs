//! What supervisor and keeper say to each other: one JSON document a line.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{SandboxPlan, Usage, cgroup::CgroupPlan};

/// Lets an old keeper live under a new supervisor. Raised with every change of these messages.
pub(crate) const PROTOCOL: u32 = 5;

/// The longest message, in bytes: a plan with 128 layers needs far less than half of it, an egress policy at most 1 MiB, and
/// credentials at most 4 MiB.
pub(crate) const MAX_LINE: u64 = 8 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum ToKeeper {
    /// Make all that is the same for every workspace.
    Prepare {
        /// The cgroups of whatever will run in it.
        cgroup: Option<CgroupPlan>,
    },
    Mapped,
    /// From here on the keeper is this workspace's.
    Start(SandboxPlan),
    /// Instead of a sandbox: remove what one that was killed has left below its cgroup.
    Sweep(CgroupPlan),
    /// From now on the sandbox may reach this, and these credentials are put on its requests; without a list, those that it has.
    /// Answered with [`FromKeeper::PolicySet`].
    SetPolicy {
        policy: cordium_egress::Policy,
        bindings: Option<Vec<cordium_broker::Binding>>,
        /// Likewise, the services.
        #[serde(default)]
        services: Option<Vec<cordium_broker::Service>>,
    },
    /// End every process in the sandbox now.
    Kill,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum FromKeeper {
    /// The outer user namespace waits for its id maps.
    NeedMaps,
    /// Everything that needs no plan is there.
    Ready,
    Failed {
        message: String,
    },
    /// The agent has been executed. Also the first message on a later connection.
    Running {
        protocol: u32,
        id: String,
        cgroup: Option<CgroupPlan>,
        warnings: Vec<String>,
        /// Name and microseconds of each step of the start; empty on a later connection.
        steps: Vec<(String, u64)>,
    },
    /// The kernel has ended processes in the sandbox for want of memory: how many since its start, and the last one.
    OomKill {
        kills: u64,
        victim: Option<String>,
    },
    /// What the workspace's files take, measured just now.
    Storage {
        usage: Usage,
        warning: Option<String>,
    },
    /// The sandbox is being ended because of what its files take.
    StorageExceeded {
        message: String,
    },
    /// The answer to [`ToKeeper::SetPolicy`], on the connection that asked: the policy is in force, or why it is not.
    PolicySet {
        error: Option<String>,
    },
    /// Something is not as it should be, in words.
    Warning(String),
    /// PID 1 has ended; the keeper ends too.
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
        oom_kills: u64,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtocolError {
    #[error("sending: {0}")]
    Send(io::Error),
    #[error("receiving: {0}")]
    Receive(io::Error),
    #[error("the other side closed the connection")]
    Closed,
    #[error("a message was not understood: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("an unexpected message came: {0}")]
    Unexpected(String),
}

/// The keeper's end, blocking.
pub(crate) struct Connection {
    reader: BufReader<UnixStream>,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { reader: BufReader::new(stream) }
    }

    pub(crate) fn stream(&self) -> &UnixStream {
        self.reader.get_ref()
    }

    pub(crate) fn send(&mut self, message: &impl Serialize) -> Result<(), ProtocolError> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.reader.get_mut().write_all(&line).map_err(ProtocolError::Send)
    }

    /// Whether a message is here already, of which the descriptor tells nothing any more.
    pub(crate) fn has_more(&self) -> bool {
        self.reader.buffer().contains(&b'\n')
    }

    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ProtocolError> {
        let mut line = Vec::new();
        self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(ProtocolError::Receive)?;
        match line.last() {
            Some(b'\n') => Ok(serde_json::from_slice(&line)?),
            _ => Err(ProtocolError::Closed),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_come_together_are_told_apart() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::new(ours);
        let mut both = Vec::new();
        for message in [FromKeeper::Warning("one".into()), FromKeeper::Warning("two".into())] {
            both.extend(serde_json::to_vec(&message).unwrap());
            both.push(b'\n');
        }
        theirs.write_all(&both).unwrap();
        let warning = |message: FromKeeper| match message {
            FromKeeper::Warning(text) => text,
            other => panic!("{other:?}"),
        };
        assert!(!connection.has_more(), "nothing was read yet");
        assert_eq!(warning(connection.receive().unwrap()), "one");
        assert!(connection.has_more());
        assert_eq!(warning(connection.receive().unwrap()), "two");
        assert!(!connection.has_more());
    }
}
