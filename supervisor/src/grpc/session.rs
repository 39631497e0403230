//! Commands, terminals and logs at the level of the node: passed through to the agent of the workspace, whose
//! uid the request carries. Streams are pulled, never buffered, so that back-pressure reaches from end to end.

use std::{sync::Arc, time::Duration};

use cordium_proto::v1::{
    AttachTerminalRequest, AttachTerminalResponse, CreateTerminalRequest, CreateTerminalResponse, Denial,
    ExecRequest, ExecResponse, ForwardRequest, ForwardResponse, ListTerminalsRequest, ListTerminalsResponse,
    ListeningPorts, LogEntry, LogsRequest, RemoveTerminalRequest, RemoveTerminalResponse,
    WatchDenialsRequest, WatchPortsRequest, attach_terminal_request, exec_request, forward_request,
    session_server::Session,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    denials,
    status::{of_agent, of_log, shutting_down},
};
use crate::{
    agent_link::AgentLink, logs::Query, request_error::RequestError, usage::explain_exec,
    workspaces::Workspaces,
};

/// How long a stream may take to say what it is about.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// The node's Session service.
#[derive(Clone)]
pub struct SessionService {
    workspaces: Arc<Workspaces>,
    shutdown: CancellationToken,
}

impl SessionService {
    /// Serves the sessions of `workspaces`; streams end when `shutdown` is cancelled.
    pub fn new(workspaces: Arc<Workspaces>, shutdown: CancellationToken) -> Self {
        Self { workspaces, shutdown }
    }

    fn agent(&self, uid: &str) -> Result<AgentLink, RequestError> {
        let view = self.workspaces.known(uid)?.view();
        view.agent.ok_or_else(|| {
            RequestError::wrong_state(
                format!("workspace {uid} is {}, not RUNNING", view.state.short_name()),
                "start it and wait until it is RUNNING",
            )
        })
    }

    /// Passes on what the agent streams, until it ends or the supervisor does.
    fn answers<T: Send + 'static>(&self, stream: Streaming<T>) -> Response<Answers<T>> {
        let state = Some((stream, self.shutdown.clone()));
        let answers = futures::stream::unfold(state, |state| async move {
            let (mut stream, shutdown) = state?;
            tokio::select! {
                biased;
                item = stream.next() => match item? {
                    Ok(item) => Some((Ok(item), Some((stream, shutdown)))),
                    Err(status) => Some((Err(of_agent(status)), None)),
                },
                () = shutdown.cancelled() => Some((Err(shutting_down()), None)),
            }
        });
        Response::new(answers.boxed())
    }
}

/// The first message, and a stream of it and the rest.
async fn with_first<T: Send + 'static>(
    mut inbound: Streaming<T>,
) -> Result<(T, impl Stream<Item = T> + Send + 'static), Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE, inbound.message())
        .await
        .map_err(|_| RequestError::Invalid("the stream's first message did not come in time".to_owned()))??;
    let first = first.ok_or_else(|| RequestError::Invalid("the stream has no message".to_owned()))?;
    // When the client goes away its stream ends with an error: the agent then sees the call cancelled.
    let rest = inbound
        .take_while(|item| std::future::ready(item.is_ok()))
        .filter_map(|item| std::future::ready(item.ok()));
    Ok((first, rest))
}

fn missing(message: &str) -> Status {
    RequestError::Invalid(format!("the first message must carry `{message}`")).into()
}

#[tonic::async_trait]
impl Session for SessionService {
    type ExecStream = Answers<ExecResponse>;
    type AttachTerminalStream = Answers<AttachTerminalResponse>;
    type ForwardStream = Answers<ForwardResponse>;
    type LogsStream = Answers<LogEntry>;
    type WatchDenialsStream = Answers<Denial>;
    type WatchPortsStream = Answers<ListeningPorts>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let (first, rest) = with_first(request.into_inner()).await?;
        let Some(exec_request::Message::Start(start)) = &first.message else { return Err(missing("start")) };
        let mut agent = self.agent(&start.workspace)?.session();
        let sandbox = self.workspaces.known(&start.workspace)?.view().sandbox;
        let kills = sandbox.as_ref().map_or(0, |sandbox| sandbox.reported().borrow().oom_kills);
        let requests = futures::stream::iter([first]).chain(rest);
        let answers = self.answers(agent.exec(requests).await.map_err(of_agent)?.into_inner());
        Ok(answers.map(|answers| {
            let explained = answers.then(move |answer| {
                let sandbox = sandbox.clone();
                async move { Ok(explain_exec(answer?, sandbox, kills).await) }
            });
            explained.boxed()
        }))
    }

    async fn create_terminal(
        &self,
        request: Request<CreateTerminalRequest>,
    ) -> Result<Response<CreateTerminalResponse>, Status> {
        let request = request.into_inner();
        self.agent(&request.workspace)?.session().create_terminal(request).await.map_err(of_agent)
    }

    async fn list_terminals(
        &self,
        request: Request<ListTerminalsRequest>,
    ) -> Result<Response<ListTerminalsResponse>, Status> {
        let request = request.into_inner();
        self.agent(&request.workspace)?.session().list_terminals(request).await.map_err(of_agent)
    }

    async fn remove_terminal(
        &self,
        request: Request<RemoveTerminalRequest>,
    ) -> Result<Response<RemoveTerminalResponse>, Status> {
        let request = request.into_inner();
        self.agent(&request.workspace)?.session().remove_terminal(request).await.map_err(of_agent)
    }

    async fn attach_terminal(
        &self,
        request: Request<Streaming<AttachTerminalRequest>>,
    ) -> Result<Response<Self::AttachTerminalStream>, Status> {
        let (first, rest) = with_first(request.into_inner()).await?;
        let Some(attach_terminal_request::Message::Attach(attach)) = &first.message else {
            return Err(missing("attach"));
        };
        let mut agent = self.agent(&attach.workspace)?.session();
        let requests = futures::stream::iter([first]).chain(rest);
        Ok(self.answers(agent.attach_terminal(requests).await.map_err(of_agent)?.into_inner()))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (first, rest) = with_first(request.into_inner()).await?;
        let Some(forward_request::Message::Start(start)) = &first.message else {
            return Err(missing("start"));
        };
        let mut agent = self.agent(&start.workspace)?.session();
        let requests = futures::stream::iter([first]).chain(rest);
        Ok(self.answers(agent.forward(requests).await.map_err(of_agent)?.into_inner()))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let owner = self.workspaces.known(&request.workspace)?;
        let query = Query {
            follow: request.follow,
            after: request.after_seq,
            task: request.task,
            tail: request.tail as usize,
        };
        let entries = owner.log().read(query, self.shutdown.clone());
        Ok(Response::new(entries.map_err(of_log).boxed()))
    }

    async fn watch_denials(
        &self,
        request: Request<WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>, Status> {
        let WatchDenialsRequest { workspace, follow, after } = request.into_inner();
        // Only of a run: the broker forgets with it.
        self.agent(&workspace)?;
        let socket = self.workspaces.broker_socket();
        let found = cordium_broker::watch_denials(socket, &workspace, after, follow).await;
        let found = found.map_err(|error| denials::of_broker(&error))?;
        Ok(Response::new(denials::pass(found, self.shutdown.clone())))
    }

    async fn watch_ports(
        &self,
        request: Request<WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        let request = request.into_inner();
        let mut agent = self.agent(&request.workspace)?.session();
        Ok(self.answers(agent.watch_ports(request).await.map_err(of_agent)?.into_inner()))
    }
}
