//! One command in a workspace, with our standard streams as its own.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cordium_proto::v1::{ExecExit, ExecRequest, ExecStart, StdinEof, exec_request, exec_response};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use super::stdin;
use crate::{
    client::Client,
    error::{CliError, CliResult, Doing as _, EXIT_INTERRUPTED, EXIT_NOT_RUN, EXIT_PIPE},
    output,
    tty::{self, RawMode},
};

/// Runs the command and returns its exit code. `start.tty` decides on raw mode, `start.stdin` on our input.
pub async fn exec(client: &Client, start: ExecStart, shown: &str) -> CliResult<u8> {
    let (tty, with_stdin) = (start.tty.is_some(), start.stdin);
    let (tx, rx) = mpsc::channel(16);
    let signals = Signals::new(tty)?;
    if tx.send(request(exec_request::Message::Start(start))).await.is_err() {
        return Err(CliError::new("the request was dropped").code(EXIT_NOT_RUN));
    }
    // Raw mode only once the command is accepted, so that an error is told on a sane terminal.
    let response = client.session().exec(ReceiverStream::new(rx)).await;
    let mut responses =
        response.doing(format!("run a command in {shown}")).map_err(|e| e.code(EXIT_NOT_RUN))?.into_inner();
    let raw = if tty { RawMode::enter()? } else { None };
    let pump = Pump { tx, with_stdin, tty }.spawn(signals);
    let ended = loop {
        let message = match responses.message().await {
            Ok(Some(m)) => m.message,
            Ok(None) => break Err(ended_early(shown)),
            Err(status) => {
                let doing = format!("run the command in {shown} to its end");
                break Err(CliError::from_status(&doing, &status).code(EXIT_NOT_RUN));
            }
        };
        let written = match message {
            Some(exec_response::Message::Stdout(data)) => write(tokio::io::stdout(), &data).await,
            Some(exec_response::Message::Stderr(data)) => write(tokio::io::stderr(), &data).await,
            Some(exec_response::Message::Exit(exit)) => break Ok(exit),
            None => Ok(()),
        };
        match written {
            Ok(()) => {}
            // The command sees its own output closed when the call ends.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break Err(CliError::silent(EXIT_PIPE)),
            Err(e) => {
                break Err(
                    CliError::new(format!("cannot write the command's output: {e}")).code(EXIT_NOT_RUN)
                );
            }
        }
    };
    pump.abort();
    drop(raw);
    ended.map(|exit| report(&exit))
}

fn ended_early(shown: &str) -> CliError {
    CliError::new(format!("the connection to {shown} ended before the command did"))
        .hint("the workspace may have stopped: `cordium get workspaces` shows its state")
        .code(EXIT_NOT_RUN)
}

fn report(exit: &ExecExit) -> u8 {
    if !exit.error.is_empty() {
        CliError::new(format!("cannot start the command: {}", exit.error))
            .hint("check its name and the working directory; a line for a shell needs `-- sh -c '…'`")
            .print();
        return (exit.code & 0xff) as u8;
    }
    if !exit.killed_by.is_empty() {
        output::warning(&format!("the command was {}", exit.killed_by));
    }
    if exit.signal != 0 && exit.code == 0 {
        return (128 + exit.signal.clamp(1, 64)) as u8;
    }
    (exit.code & 0xff) as u8
}

async fn write(mut to: impl AsyncWrite + Unpin, data: &Bytes) -> io::Result<()> {
    to.write_all(data).await?;
    to.flush().await
}

fn request(message: exec_request::Message) -> ExecRequest {
    ExecRequest { message: Some(message) }
}

struct Signals {
    int: Signal,
    term: Signal,
    hup: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
    winch: Signal,
    tty: bool,
}

enum Event {
    Signal(i32),
    Resized,
}

impl Signals {
    fn new(tty: bool) -> CliResult<Self> {
        let on = |kind| signal(kind).doing("watch for signals");
        Ok(Self {
            int: on(SignalKind::interrupt())?,
            term: on(SignalKind::terminate())?,
            hup: on(SignalKind::hangup())?,
            quit: on(SignalKind::quit())?,
            usr1: on(SignalKind::user_defined1())?,
            usr2: on(SignalKind::user_defined2())?,
            winch: on(SignalKind::window_change())?,
            tty,
        })
    }

    async fn next(&mut self) -> Event {
        tokio::select! {
            _ = self.int.recv() => Event::Signal(2),
            _ = self.term.recv() => Event::Signal(15),
            _ = self.hup.recv() => Event::Signal(1),
            _ = self.quit.recv() => Event::Signal(3),
            _ = self.usr1.recv() => Event::Signal(10),
            _ = self.usr2.recv() => Event::Signal(12),
            _ = self.winch.recv(), if self.tty => Event::Resized,
        }
    }
}

/// Our side of the call: input, signals, sizes.
struct Pump {
    tx: mpsc::Sender<ExecRequest>,
    with_stdin: bool,
    tty: bool,
}

impl Pump {
    fn spawn(self, mut signals: Signals) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut input = self.with_stdin.then(stdin::read);
            let mut interrupts = Interrupts::default();
            loop {
                let message = tokio::select! {
                    data = next_input(&mut input) => match data {
                        Some(data) => exec_request::Message::Stdin(data),
                        None => exec_request::Message::StdinEof(StdinEof {}),
                    },
                    event = signals.next() => match event {
                        Event::Resized => exec_request::Message::Resize(tty::size()),
                        Event::Signal(number) => {
                            if number == 2 && interrupts.too_many(Instant::now()) {
                                output::stderr_line("left: the command did not end at Ctrl-C");
                                tty::exit(EXIT_INTERRUPTED);
                            }
                            if number == 1 {
                                leave_soon();
                            }
                            exec_request::Message::Signal(number)
                        }
                    },
                };
                let input_ended = matches!(message, exec_request::Message::StdinEof(_));
                if self.tx.send(request(message)).await.is_err() {
                    return;
                }
                if input_ended {
                    // A terminal has no end of input but its hang-up.
                    if self.tty {
                        leave_soon();
                    }
                    input = None;
                }
            }
        })
    }
}

/// The next piece of input; waits for ever when there is none to read.
async fn next_input(input: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match input {
        Some(rx) => rx.recv().await,
        None => std::future::pending().await,
    }
}

/// Our terminal is gone: give the command a moment to end, then leave.
fn leave_soon() {
    if tty::stdin_is_terminal() {
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            tty::exit(129);
        });
    }
}

/// Three interrupts within two seconds mean: let me out, whatever the command does.
#[derive(Default)]
struct Interrupts(Vec<Instant>);

impl Interrupts {
    fn too_many(&mut self, now: Instant) -> bool {
        self.0.retain(|t| now.duration_since(*t) < Duration::from_secs(2));
        self.0.push(now);
        self.0.len() >= 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes() {
        let exit = |code, signal| report(&ExecExit { code, signal, ..ExecExit::default() });
        assert_eq!(exit(7, 0), 7);
        assert_eq!(exit(137, 9), 137);
        assert_eq!(exit(0, 15), 143);
        assert_eq!(exit(0, 0), 0);
    }

    #[test]
    fn three_quick_interrupts_leave() {
        let mut i = Interrupts::default();
        let t = Instant::now();
        assert!(!i.too_many(t));
        assert!(!i.too_many(t + Duration::from_secs(3)));
        assert!(!i.too_many(t + Duration::from_secs(4)));
        assert!(i.too_many(t + Duration::from_millis(4500)));
    }
}
