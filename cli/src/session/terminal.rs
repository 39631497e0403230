//! Our terminal joined to one in a workspace.

use cordium_proto::v1::{
    AttachTerminal, AttachTerminalRequest, attach_terminal_request as ask, attach_terminal_response as answer,
};
use tokio::{
    io::AsyncWriteExt as _,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    detach::{Keys, Matcher, Typed},
    stdin,
};
use crate::{
    client::Client,
    error::{CliError, CliResult, Doing as _},
    tty::{self, RawMode},
};

/// Servers may bound one piece of input: stay below.
const CHUNK: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The shell ended, with its exit code.
    Closed(i32),
    /// We left; the shell goes on.
    Detached,
    /// Our own terminal went away, or we were told to end; the shell goes on.
    HungUp(u8),
}

pub async fn attach(client: &Client, workspace: &str, shown: &str, id: &str, keys: Keys) -> CliResult<End> {
    let (tx, rx) = mpsc::channel(16);
    let mut winch = signal(SignalKind::window_change()).doing("watch the terminal's size")?;
    let mut term = signal(SignalKind::terminate()).doing("watch for SIGTERM")?;
    let mut hup = signal(SignalKind::hangup()).doing("watch for SIGHUP")?;
    let first = ask::Message::Attach(AttachTerminal { workspace: workspace.to_owned(), id: id.to_owned() });
    for message in [first, ask::Message::Resize(tty::size())] {
        send(&tx, message).await?;
    }
    let doing = format!("attach to terminal {id} of {shown}");
    let mut responses =
        client.session().attach_terminal(ReceiverStream::new(rx)).await.doing(&doing)?.into_inner();
    let _raw = RawMode::enter()?;
    let mut input = stdin::read();
    let mut matcher = Matcher::new(keys);
    let mut stdout = tokio::io::stdout();
    loop {
        tokio::select! {
            message = responses.message() => match message.doing(format!("stay in terminal {id} of {shown}")) {
                Ok(Some(m)) => match m.message {
                    Some(answer::Message::Data(data)) => {
                        let written = async { stdout.write_all(&data).await?; stdout.flush().await }.await;
                        if written.is_err() {
                            return Ok(End::HungUp(129));
                        }
                    }
                    Some(answer::Message::Closed(closed)) => return Ok(End::Closed(closed.exit_code)),
                    // Its size is ours: we have just set it.
                    Some(answer::Message::Size(_)) | None => {}
                },
                Ok(None) => return Err(CliError::new(format!("terminal {id} of {shown} went away"))
                    .hint(format!("`cordium terminal {shown} --id {id}` attaches again if the workspace runs"))),
                Err(e) => return Err(e.hint(format!("`cordium terminal {shown} --id {id}` attaches again"))),
            },
            data = input.recv() => match data {
                None => return Ok(End::HungUp(129)),
                Some(data) => match matcher.feed(&data) {
                    Typed::Detach => return Ok(End::Detached),
                    Typed::Send(data) => for chunk in data.chunks(CHUNK) {
                        send(&tx, ask::Message::Data(bytes::Bytes::copy_from_slice(chunk))).await?;
                    },
                },
            },
            _ = winch.recv() => send(&tx, ask::Message::Resize(tty::size())).await?,
            _ = term.recv() => return Ok(End::HungUp(143)),
            _ = hup.recv() => return Ok(End::HungUp(129)),
        }
    }
}

async fn send(tx: &mpsc::Sender<AttachTerminalRequest>, message: ask::Message) -> CliResult {
    tx.send(AttachTerminalRequest { message: Some(message) })
        .await
        .map_err(|_| CliError::new("the connection to the terminal was closed"))
}
