//! `cordium.v1.Session`: commands, terminals, logs.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use cordium_proto::v1::session_server::Session;
use cordium_proto::v1::{
    AttachTerminalRequest, AttachTerminalResponse, CreateTerminalRequest, CreateTerminalResponse, Denial,
    ExecRequest, ExecResponse, ForwardRequest, ForwardResponse, ListTerminalsRequest, ListTerminalsResponse,
    ListeningPorts, LogEntry, LogsRequest, RemoveTerminalRequest, RemoveTerminalResponse, Terminal,
    TerminalClosed, WatchDenialsRequest, WatchPortsRequest, attach_terminal_request,
    attach_terminal_response, exec_request, forward_request,
};
use futures::stream::{self, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::guard;
use crate::exec;
use crate::forward::Forward;
use crate::identity::Who;
use crate::state::State;
use crate::terminal::{Listener, Update};
use crate::terminals::{TerminalError, Terminals};

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Messages that may wait for the client; more is back-pressure.
const QUEUE: usize = 4;

pub struct SessionService(pub Arc<State>);

#[tonic::async_trait]
impl Session for SessionService {
    type ExecStream = BoxStream<ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        guard(self.start_exec(request.into_inner())).await
    }

    async fn create_terminal(
        &self,
        request: Request<CreateTerminalRequest>,
    ) -> Result<Response<CreateTerminalResponse>, Status> {
        guard(async {
            let request = request.into_inner();
            let identity = self.0.identity().await?;
            let who = Who::root_if(request.run_as_root);
            let id = Terminals::create(&self.0, &identity, request.size.unwrap_or_default(), who)?;
            Ok(Response::new(CreateTerminalResponse { id }))
        })
        .await
    }

    async fn list_terminals(
        &self,
        _: Request<ListTerminalsRequest>,
    ) -> Result<Response<ListTerminalsResponse>, Status> {
        let items = self.0.terminals.list().into_iter().map(|terminal| Terminal {
            id: terminal.id.clone(),
            size: Some(terminal.size()),
            created_at: Some(terminal.created_at.into()),
        });
        Ok(Response::new(ListTerminalsResponse { items: items.collect() }))
    }

    async fn remove_terminal(
        &self,
        request: Request<RemoveTerminalRequest>,
    ) -> Result<Response<RemoveTerminalResponse>, Status> {
        if let Some(terminal) = self.0.terminals.get(&request.into_inner().id) {
            // It ends although the caller may go away.
            let _ = tokio::spawn(async move { terminal.end().await }).await;
        }
        Ok(Response::new(RemoveTerminalResponse {}))
    }

    type AttachTerminalStream = BoxStream<AttachTerminalResponse>;

    async fn attach_terminal(
        &self,
        request: Request<Streaming<AttachTerminalRequest>>,
    ) -> Result<Response<Self::AttachTerminalStream>, Status> {
        guard(self.start_attach(request.into_inner())).await
    }

    type ForwardStream = BoxStream<ForwardResponse>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        guard(async {
            let mut requests = request.into_inner();
            let first = requests.message().await?.and_then(|request| request.message);
            let Some(forward_request::Message::Start(start)) = first else {
                return Err(Status::invalid_argument("the first message of Forward must carry `start`"));
            };
            let forward = Forward::open(start.port).await?;
            let (sender, responses) = mpsc::channel(QUEUE);
            tokio::spawn(forward.drive(requests, sender));
            let responses: Self::ForwardStream = Box::pin(ReceiverStream::new(responses));
            Ok(Response::new(responses))
        })
        .await
    }

    type LogsStream = BoxStream<LogEntry>;

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        Ok(Response::new(Box::pin(self.0.logs.read(&request.into_inner()).map(Ok))))
    }

    type WatchDenialsStream = BoxStream<Denial>;

    async fn watch_denials(
        &self,
        _: Request<WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>, Status> {
        Err(Status::unimplemented("what leaves the workspace is decided outside of it: ask the supervisor"))
    }

    type WatchPortsStream = BoxStream<ListeningPorts>;

    async fn watch_ports(
        &self,
        request: Request<WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        guard(async {
            let ports = &self.0.ports;
            let room = ports.room()?;
            if !request.into_inner().follow {
                let list = ports.list(Instant::now()).await?;
                let once: Self::WatchPortsStream = Box::pin(stream::iter([Ok(list)]));
                return Ok(Response::new(once));
            }
            let (sender, lists) = mpsc::channel(1);
            tokio::spawn(Arc::clone(ports).follow(sender, room));
            let lists: Self::WatchPortsStream = Box::pin(ReceiverStream::new(lists));
            Ok(Response::new(lists))
        })
        .await
    }
}

impl SessionService {
    async fn start_exec(
        &self,
        mut requests: Streaming<ExecRequest>,
    ) -> Result<Response<BoxStream<ExecResponse>>, Status> {
        let Some(exec_request::Message::Start(start)) = requests.message().await?.and_then(|r| r.message)
        else {
            return Err(Status::invalid_argument("the first message of Exec must carry `start`"));
        };
        exec::check(&start)?;
        let identity = self.0.identity().await?;
        let spawned = match exec::begin(&self.0, &identity, start) {
            Ok(spawned) => spawned,
            Err(error) => {
                let only = stream::iter([Ok(exec::not_started(&error))]);
                return Ok(Response::new(Box::pin(only)));
            }
        };
        let (sender, responses) = mpsc::channel(QUEUE);
        tokio::spawn(exec::drive(spawned, requests, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn start_attach(
        &self,
        mut requests: Streaming<AttachTerminalRequest>,
    ) -> Result<Response<BoxStream<AttachTerminalResponse>>, Status> {
        use attach_terminal_request::Message;
        let Some(Message::Attach(attach)) = requests.message().await?.and_then(|r| r.message) else {
            return Err(Status::invalid_argument("the first message of AttachTerminal must carry `attach`"));
        };
        let terminals = &self.0.terminals;
        let unknown = || Status::not_found(format!("there is no terminal `{}`", attach.id));
        let terminal = terminals.get(&attach.id).ok_or_else(unknown)?;
        let listener = terminal.listen(terminals.next_key());
        let (sender, responses) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let input = async {
                loop {
                    match requests.message().await {
                        Ok(Some(AttachTerminalRequest { message: Some(Message::Data(data)) })) => {
                            terminal.write(&data).await;
                        }
                        Ok(Some(AttachTerminalRequest { message: Some(Message::Resize(size)) })) => {
                            terminal.resize(size);
                        }
                        Ok(Some(_)) => {}
                        // Half closed: a client that only watches.
                        Ok(None) => std::future::pending().await,
                        Err(_) => return,
                    }
                }
            };
            tokio::select! {
                () = tell(listener, &sender) => {}
                () = input => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

async fn tell(mut listener: Listener, out: &mpsc::Sender<Result<AttachTerminalResponse, Status>>) {
    use attach_terminal_response::Message;
    loop {
        let (message, last) = match listener.next().await {
            Update::Size(size) => (Message::Size(size), false),
            Update::Data(data) => (Message::Data(data), false),
            Update::Closed(exit_code) => (Message::Closed(TerminalClosed { exit_code }), true),
        };
        let sent = out.send(Ok(AttachTerminalResponse { message: Some(message) })).await;
        if last || sent.is_err() {
            return;
        }
    }
}

impl From<TerminalError> for Status {
    fn from(error: TerminalError) -> Self {
        let message = error.to_string();
        match error {
            TerminalError::TooMany => Status::resource_exhausted(message),
            TerminalError::NoShell => Status::failed_precondition(message),
            TerminalError::Spawn(_) | TerminalError::NoTerminal => Status::internal(message),
        }
    }
}
