//! One command with somebody attached: streams with back-pressure, signals, size, exit code.
//!
//! Output is read only as fast as the client takes it. When the client goes, so does the command.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cordium_proto::v1::{ExecExit, ExecRequest, ExecResponse, ExecStart, exec_request, exec_response};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

use crate::identity::{Identity, Who};
use crate::process::{GRACE, end_session, signal_group};
use crate::pty;
use crate::reaper::{Exit, Process};
use crate::spawn::{Launch, Rest, Role, SpawnError, Spawned, Streams, spawn};
use crate::state::State;
use crate::tasks::working_dir;

const CHUNK: usize = 64 << 10;
/// Input that may wait for the command before we stop reading the client (and with it, its signals).
const STDIN_BUFFER: usize = 1 << 20;
/// End of file, as a terminal says it.
const END_OF_TRANSMISSION: &[u8] = &[4];

type Out = mpsc::Sender<Result<ExecResponse, Status>>;
type Message = exec_response::Message;

/// Starts what `start` asks for.
pub fn begin(state: &State, identity: &Identity, start: ExecStart) -> Result<Spawned, SpawnError> {
    let who = Who::root_if(start.run_as_root);
    let mut environment = identity.environment(who);
    if start.tty.is_some() {
        environment.set_default("TERM", "xterm-256color");
    }
    for (key, value) in &start.env {
        environment.set(key, value);
    }
    let launch = Launch {
        argv: start.command,
        environment,
        working_dir: working_dir(identity.home(who), &start.working_dir),
        credentials: identity.credentials(who),
        role: Role::Program,
    };
    let streams = match start.tty {
        Some(size) => Streams::Pty(size),
        None => Streams::Pipes { stdin: start.stdin },
    };
    spawn(&state.reaper, &launch, streams)
}

/// The one message of a command that could not be started.
pub fn not_started(error: &SpawnError) -> ExecResponse {
    let exit = ExecExit { code: error.exit_code(), error: error.to_string(), ..ExecExit::default() };
    ExecResponse { message: Some(Message::Exit(exit)) }
}

/// Serves the command until its end or the client's.
pub async fn drive(spawned: Spawned, requests: Streaming<ExecRequest>, out: Out) {
    let Spawned { process, stdin, stdout, stderr, terminal } = spawned;
    let exit = {
        let output = pump_output(&process, stdout, stderr, &out);
        let input = pump_input(&process, stdin, terminal, requests);
        tokio::pin!(output, input);
        let mut listening = true;
        loop {
            tokio::select! {
                exit = &mut output => break exit,
                gone = &mut input, if listening => match gone {
                    Input::Ended => listening = false,
                    Input::Broken => break None,
                },
                () = out.closed() => break None,
            }
        }
    };
    match exit {
        Some(exit) => {
            let killed_by = process.killed().to_owned();
            let exit =
                ExecExit { code: exit.shell_code(), signal: exit.signal(), killed_by, ..ExecExit::default() };
            let _ = out.send(Ok(ExecResponse { message: Some(Message::Exit(exit)) })).await;
        }
        None => end_session(&process, &[Signal::SIGHUP, Signal::SIGTERM], GRACE).await,
    }
}

/// Sends all output, then tells how the command ended; `None` when the client is gone.
///
/// It ends with the command itself: descendants that keep its output open are not waited for.
async fn pump_output(
    process: &Process,
    mut stdout: Receiver,
    stderr: Option<Receiver>,
    out: &Out,
) -> Option<Exit> {
    let (mut out_buffer, mut err_buffer) = (BytesMut::new(), BytesMut::new());
    let mut stdout_open = true;
    let mut stderr = stderr;
    let exited = process.wait();
    tokio::pin!(exited);
    let exit = loop {
        let read_err = async {
            match &mut stderr {
                Some(pipe) => read(pipe, &mut err_buffer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            data = read(&mut stdout, &mut out_buffer), if stdout_open => match data {
                Some(data) => send(out, Message::Stdout(data)).await?,
                None => stdout_open = false,
            },
            data = read_err => match data {
                Some(data) => send(out, Message::Stderr(data)).await?,
                None => stderr = None,
            },
            exit = &mut exited => break exit,
        }
    };
    let mut buffer = vec![0; CHUNK];
    if stdout_open {
        let mut rest = Rest::of(&stdout);
        while let Some(count) = rest.read(&mut buffer) {
            send(out, Message::Stdout(Bytes::copy_from_slice(&buffer[..count]))).await?;
        }
    }
    if let Some(stderr) = &stderr {
        let mut rest = Rest::of(stderr);
        while let Some(count) = rest.read(&mut buffer) {
            send(out, Message::Stderr(Bytes::copy_from_slice(&buffer[..count]))).await?;
        }
    }
    Some(exit)
}

/// `None` at the end; a terminal whose last program ended reports that as an error.
async fn read(pipe: &mut Receiver, buffer: &mut BytesMut) -> Option<Bytes> {
    if buffer.capacity() < CHUNK / 4 {
        buffer.reserve(CHUNK);
    }
    match pipe.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(buffer.split().freeze()),
    }
}

async fn send(out: &Out, message: Message) -> Option<()> {
    out.send(Ok(ExecResponse { message: Some(message) })).await.ok()
}

enum Input {
    /// The client has nothing more to say.
    Ended,
    /// The connection is gone, or the client broke the protocol.
    Broken,
}

async fn pump_input(
    process: &Process,
    stdin: Option<Sender>,
    terminal: Option<OwnedFd>,
    mut requests: Streaming<ExecRequest>,
) -> Input {
    let mut writer = stdin.map(StdinWriter::start);
    loop {
        let message = match requests.message().await {
            Ok(Some(ExecRequest { message: Some(message) })) => message,
            Ok(Some(ExecRequest { message: None })) => continue,
            Ok(None) => return Input::Ended,
            Err(_) => return Input::Broken,
        };
        match message {
            exec_request::Message::Stdin(data) => {
                if let Some(writer) = &writer {
                    writer.write(data).await;
                }
            }
            exec_request::Message::StdinEof(_) => match (&writer, &terminal) {
                (Some(writer), Some(_)) => writer.write(Bytes::from_static(END_OF_TRANSMISSION)).await,
                _ => writer = None,
            },
            exec_request::Message::Signal(signal) => {
                if let Err(error) = signal_group(process, signal) {
                    tracing::debug!(error, "exec");
                }
            }
            exec_request::Message::Resize(size) => {
                if let Some(terminal) = &terminal {
                    let _ = pty::resize(terminal, size);
                }
            }
            exec_request::Message::Start(_) => return Input::Broken,
        }
    }
}

/// Writes input beside the reading of requests, so that signals get through while the command does not read.
struct StdinWriter {
    queue: mpsc::UnboundedSender<(Bytes, tokio::sync::OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

impl StdinWriter {
    fn start(mut stdin: Sender) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel::<(Bytes, _)>();
        tokio::spawn(async move {
            while let Some((data, _room)) = waiting.recv().await {
                if stdin.write_all(&data).await.is_err() {
                    return;
                }
            }
        });
        Self { queue, room: Arc::new(Semaphore::new(STDIN_BUFFER)) }
    }

    async fn write(&self, data: Bytes) {
        let cost = u32::try_from(data.len().clamp(1, STDIN_BUFFER)).unwrap_or(1);
        tokio::select! {
            room = Arc::clone(&self.room).acquire_many_owned(cost) => {
                if let Ok(room) = room {
                    let _ = self.queue.send((data, room));
                }
            }
            // Nobody reads any more: the command closed its input. What comes is dropped, as by a shell.
            () = self.queue.closed() => {}
        }
    }
}

/// Refuses what no command could be.
pub fn check(start: &ExecStart) -> Result<(), Status> {
    if start.command.first().is_none_or(String::is_empty) {
        return Err(Status::invalid_argument("start.command is empty; give the program and its arguments"));
    }
    let nul =
        start.command.iter().chain(start.env.keys()).chain(start.env.values()).any(|s| s.contains('\0'));
    if nul || start.working_dir.contains('\0') {
        return Err(Status::invalid_argument("start holds a NUL character"));
    }
    Ok(())
}
