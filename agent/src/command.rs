//! Programs that nobody is attached to: their output goes to the log, its last lines to failure messages.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cordium_proto::v1::LogStream;
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::logs::{Logs, Origin};
use crate::process::{GRACE, end_session, signal_session};
use crate::reaper::{Exit, Process};
use crate::spawn::{Launch, SpawnError, Streams, spawn};
use crate::state::State;
use crate::tail::Tail;

const CHUNK: usize = 32 << 10;
/// How long the end of output is waited for after the program's own end: its children may keep it open.
const DRAIN: Duration = Duration::from_millis(200);

pub struct Outcome {
    pub exit: Exit,
    pub timed_out: bool,
    /// The last lines.
    pub output: String,
    /// The program as it was called when SIGKILL ended it; empty otherwise.
    pub killed: String,
}

/// A started program. Dropping it sends SIGTERM to its session, unless it has ended or was let go.
pub struct Running {
    pub process: Process,
    pumps: Vec<JoinHandle<()>>,
    tail: Arc<Mutex<Tail>>,
    end_on_drop: bool,
}

pub fn start(state: &State, launch: &Launch, origin: &Origin) -> Result<Running, SpawnError> {
    let spawned = spawn(&state.reaper, launch, Streams::Pipes { stdin: false })?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let streams = [(Some(spawned.stdout), LogStream::Stdout), (spawned.stderr, LogStream::Stderr)];
    let pumps = streams
        .into_iter()
        .filter_map(|(pipe, stream)| {
            Some(tokio::spawn(pump(
                pipe?,
                stream,
                Arc::clone(&state.logs),
                origin.clone(),
                Arc::clone(&tail),
            )))
        })
        .collect();
    Ok(Running { process: spawned.process, pumps, tail, end_on_drop: true })
}

/// Runs to the end, or to `deadline`: then the whole session gets SIGTERM and, five seconds later, SIGKILL.
pub async fn run(
    state: &State,
    launch: &Launch,
    origin: &Origin,
    deadline: Option<Instant>,
) -> Result<Outcome, SpawnError> {
    Ok(start(state, launch, origin)?.finish(deadline).await)
}

impl Running {
    pub async fn finish(mut self, deadline: Option<Instant>) -> Outcome {
        let in_time = match deadline {
            Some(deadline) => timeout_at(deadline, self.process.wait()).await.is_ok(),
            None => {
                self.process.wait().await;
                true
            }
        };
        if !in_time {
            end_session(&self.process, &[Signal::SIGTERM], GRACE).await;
        }
        let exit = self.process.wait().await;
        for pump in &mut self.pumps {
            let _ = timeout(DRAIN, pump).await;
        }
        let output = self.tail.lock().unwrap_or_else(PoisonError::into_inner).text();
        let killed = self.process.killed().to_owned();
        Outcome { exit, timed_out: !in_time, output, killed }
    }

    /// Lets it outlive the caller.
    pub fn keep(mut self) -> Self {
        self.end_on_drop = false;
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.end_on_drop && self.process.exited().is_none() {
            signal_session(self.process.pid, Signal::SIGTERM);
        }
    }
}

async fn pump(
    mut pipe: Receiver,
    stream: LogStream,
    logs: Arc<Logs>,
    origin: Origin,
    tail: Arc<Mutex<Tail>>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..count]);
                logs.push(&origin, stream, &buffer[..count]);
            }
        }
    }
}
