//! One local connection, carried to a port inside a workspace.

use bytes::BytesMut;
use cordium_proto::v1::{
    ForwardEof, ForwardRequest, ForwardResponse, ForwardStart, forward_request as ask,
    forward_response as answer,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::Client;

/// Messages that may wait; more is back-pressure.
const QUEUE: usize = 4;
const CHUNK: usize = 64 << 10;

type Ask = mpsc::Sender<ForwardRequest>;

/// Why a connection did not come to its end.
pub enum Broken {
    /// The local side has gone: nobody is there to be told.
    Local,
    Remote(Status),
}

/// Copies until both sides have ended. A break of one side is a reset for the other.
pub async fn forward(
    client: &Client,
    workspace: &str,
    port: u16,
    mut stream: TcpStream,
) -> Result<(), Broken> {
    let _ = stream.set_nodelay(true);
    let ended = carry(client, workspace, port, &mut stream).await;
    if ended.is_err() {
        let _ = stream.set_zero_linger();
    }
    ended
}

async fn carry(client: &Client, workspace: &str, port: u16, stream: &mut TcpStream) -> Result<(), Broken> {
    let (tx, rx) = mpsc::channel(QUEUE);
    let start = ForwardStart { workspace: workspace.to_owned(), port: port.into() };
    say(&tx, ask::Message::Start(start)).await?;
    let answers =
        client.session().forward(ReceiverStream::new(rx)).await.map_err(Broken::Remote)?.into_inner();
    let (mut read, mut write) = stream.split();
    // With an error of either the stream of messages is dropped, by which the other end knows.
    tokio::try_join!(up(&mut read, &tx), down(answers, &mut write)).map(|_| ())
}

async fn up(read: &mut ReadHalf<'_>, tx: &Ask) -> Result<(), Broken> {
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match read.read_buf(&mut chunk).await {
            Ok(0) => return say(tx, ask::Message::Eof(ForwardEof {})).await,
            Ok(_) => say(tx, ask::Message::Data(chunk.freeze())).await?,
            Err(_) => return Err(Broken::Local),
        }
    }
}

/// The call has ended if nobody takes the message: `down` tells how.
async fn say(tx: &Ask, message: ask::Message) -> Result<(), Broken> {
    match tx.send(ForwardRequest { message: Some(message) }).await {
        Ok(()) => Ok(()),
        Err(_) => std::future::pending().await,
    }
}

async fn down(mut answers: Streaming<ForwardResponse>, write: &mut WriteHalf<'_>) -> Result<(), Broken> {
    let mut ended = false;
    while let Some(ForwardResponse { message }) = answers.message().await.map_err(Broken::Remote)? {
        let written = match message {
            Some(answer::Message::Data(data)) => write.write_all(&data).await,
            Some(answer::Message::Eof(_)) => {
                ended = true;
                write.shutdown().await
            }
            None => Ok(()),
        };
        written.map_err(|_| Broken::Local)?;
    }
    match ended {
        true => Ok(()),
        false => Err(Broken::Remote(Status::aborted("the connection was cut off"))),
    }
}
