//! A connection to a port of a workspace, by `Session.Forward`.

use std::{future::ready, io};

use bytes::Bytes;
use cordium_proto::v1::{
    ForwardRequest, ForwardStart, forward_request as ask, forward_response as answer,
    session_client::SessionClient,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    io::{CopyToBytes, SinkWriter, StreamReader},
    sync::PollSender,
};
use tonic::{Status, transport::Channel};

const QUEUE: usize = 4;

/// Opens it. Dropping what is returned breaks it off, and so does the end of what is written: HTTP ends messages itself.
pub async fn open(
    mut session: SessionClient<Channel>,
    uid: &str,
    port: u16,
) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>, Status> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let start = ForwardStart { workspace: uid.to_owned(), port: port.into() };
    let first = ForwardRequest { message: Some(ask::Message::Start(start)) };
    requests.try_send(first).map_err(|error| Status::internal(error.to_string()))?;
    let answers = session.forward(ReceiverStream::new(queue)).await?.into_inner();
    // An end of data, or an answer without a message, ends what is read.
    let read = answers
        .map(|answer| match answer {
            Ok(answer) => match answer.message {
                Some(answer::Message::Data(data)) => Ok(Some(data)),
                Some(answer::Message::Eof(_)) | None => Ok(None),
            },
            Err(status) => Err(io::Error::other(status.message().to_owned())),
        })
        .take_while(|answer| ready(!matches!(answer, Ok(None))))
        .map(|answer| answer.map(Option::unwrap_or_default));
    let write = PollSender::new(requests).sink_map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe)).with(
        |data: Bytes| ready(Ok::<_, io::Error>(ForwardRequest { message: Some(ask::Message::Data(data)) })),
    );
    Ok(tokio::io::join(StreamReader::new(read), SinkWriter::new(CopyToBytes::new(write))))
}
