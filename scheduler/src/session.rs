//! The Session service: finds the workspace's node and passes the streams through.
//!
//! Messages are handed on one by one as either side asks for the next, so a slow reader at one end holds back
//! the writer at the other.

use std::{pin::Pin, sync::Arc, time::Duration};

use cordium_proto::v1::{
    AttachTerminalRequest, AttachTerminalResponse, CreateTerminalRequest, CreateTerminalResponse, Denial,
    ExecRequest, ExecResponse, ForwardRequest, ForwardResponse, ListTerminalsRequest, ListTerminalsResponse,
    ListeningPorts, LogEntry, LogsRequest, RemoveTerminalRequest, RemoveTerminalResponse,
    WatchDenialsRequest, WatchPortsRequest, WorkspaceState, attach_terminal_request, exec_request,
    forward_request, session_server::Session,
};
use futures::{Stream, StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    activity, applications,
    audit::{actor, entries},
    core::Core,
    error::{ApiError, relayed, with_hint},
    names,
    nodes::NodeHandle,
    service::ControlService,
    store::workspaces,
};

/// How long a stream may take to say what it wants.
const FIRST_MESSAGE: Duration = Duration::from_secs(30);

type Answer<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Where a workspace's calls go.
struct Route {
    uid: String,
    name: String,
    node: Arc<NodeHandle>,
}

impl Route {
    fn find(core: &Core, reference: &str, running: bool) -> Result<Self, ApiError> {
        if core.shutdown.is_cancelled() {
            return Err(ApiError::ShuttingDown);
        }
        let target = names::parse_ref(reference, "")?;
        let ws = core.store.lookup(|conn| workspaces::get(conn, &target))?;
        let name = match ws.record.space.as_str() {
            names::DEFAULT => ws.record.name,
            space => format!("{}.{space}", ws.record.name),
        };
        if running && ws.status.state() == WorkspaceState::Stopped {
            return Err(not_running(&name));
        }
        if ws.last_node.is_empty() {
            return Err(ApiError::state(
                format!("workspace {name:?} is on no node: it has never run"),
                format!("cordium start {name}"),
            ));
        }
        Ok(Self { uid: ws.record.uid, name, node: core.node(&ws.last_node)?.clone() })
    }

    /// A node's refusal in our caller's terms.
    fn explain(&self, status: Status) -> Status {
        let ours = Status::from(ApiError::from_node(&self.node.name, status));
        let bare = ours.metadata().get(cordium_proto::HINT_KEY).is_none();
        if ours.code() == Code::FailedPrecondition && bare {
            return with_hint(ours.code(), ours.message(), Some(&format!("cordium start {}", self.name)));
        }
        ours
    }
}

fn not_running(name: &str) -> ApiError {
    ApiError::state(format!("workspace {name:?} is not running"), format!("cordium start {name}"))
}

/// The messages after the first. A caller that breaks off just ends; its node sees the stream reset.
fn rest<T: Send + 'static>(first: T, stream: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    let following =
        stream.take_while(|item| std::future::ready(item.is_ok())).filter_map(|item| async { item.ok() });
    stream::once(std::future::ready(first)).chain(following)
}

async fn first<T>(stream: &mut Streaming<T>, wanted: &str) -> Result<T, Status> {
    let missing = || Status::invalid_argument(format!("the first message must carry {wanted}"));
    match tokio::time::timeout(FIRST_MESSAGE, stream.message()).await {
        Ok(message) => message?.ok_or_else(missing),
        Err(_) => Err(Status::deadline_exceeded(format!("no message with {wanted} came"))),
    }
}

impl ControlService {
    /// Hands the node's replies on, until either side or this scheduler ends.
    fn replies<T: Send + 'static>(&self, stream: Streaming<T>) -> Response<Replies<T>> {
        let shutdown = self.core.shutdown.clone();
        let goodbye = stream::once(async { Err(Status::from(ApiError::ShuttingDown)) });
        let closing = self.core.shutdown.clone();
        let passed = stream
            .map(|item| item.map_err(|status| relayed(&status)))
            .take_until(async move { shutdown.cancelled().await });
        let tail = goodbye.filter(move |_| std::future::ready(closing.is_cancelled()));
        Response::new(Box::pin(passed.chain(tail)))
    }
}

#[tonic::async_trait]
impl Session for ControlService {
    type ExecStream = Replies<ExecResponse>;
    type AttachTerminalStream = Replies<AttachTerminalResponse>;
    type ForwardStream = Replies<ForwardResponse>;
    type LogsStream = Replies<LogEntry>;
    type WatchDenialsStream = Replies<Denial>;
    type WatchPortsStream = Replies<ListeningPorts>;

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<Self::ExecStream> {
        let actor = actor::of(&request);
        let mut stream = request.into_inner();
        let mut opening = first(&mut stream, "`start`").await?;
        let Some(exec_request::Message::Start(start)) = &mut opening.message else {
            return Err(Status::invalid_argument("the first message must carry `start`"));
        };
        let route = Route::find(&self.core, &start.workspace, true)?;
        start.workspace.clone_from(&route.uid);
        self.core.audit.record(entries::exec(actor, &route.name, &route.uid, start)).await?;
        let answer = route.node.sessions().exec(rest(opening, stream)).await;
        let replies = answer.map_err(|status| route.explain(status))?.into_inner();
        activity::note(&self.core, &route.uid);
        Ok(self.replies(replies))
    }

    async fn create_terminal(
        &self,
        request: Request<CreateTerminalRequest>,
    ) -> Answer<CreateTerminalResponse> {
        let actor = actor::of(&request);
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, true)?;
        request.workspace.clone_from(&route.uid);
        self.core.audit.record(entries::terminal(actor, &route.name, &route.uid, &request)).await?;
        let answer = route.node.sessions().create_terminal(request).await;
        let made = answer.map_err(|status| route.explain(status))?.into_inner();
        activity::note(&self.core, &route.uid);
        Ok(Response::new(made))
    }

    async fn list_terminals(&self, request: Request<ListTerminalsRequest>) -> Answer<ListTerminalsResponse> {
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, true)?;
        request.workspace.clone_from(&route.uid);
        let answer = route.node.sessions().list_terminals(request).await;
        Ok(Response::new(answer.map_err(|status| route.explain(status))?.into_inner()))
    }

    async fn remove_terminal(
        &self,
        request: Request<RemoveTerminalRequest>,
    ) -> Answer<RemoveTerminalResponse> {
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, true)?;
        request.workspace.clone_from(&route.uid);
        let answer = route.node.sessions().remove_terminal(request).await;
        Ok(Response::new(answer.map_err(|status| route.explain(status))?.into_inner()))
    }

    async fn attach_terminal(
        &self,
        request: Request<Streaming<AttachTerminalRequest>>,
    ) -> Answer<Self::AttachTerminalStream> {
        let mut stream = request.into_inner();
        let mut opening = first(&mut stream, "`attach`").await?;
        let Some(attach_terminal_request::Message::Attach(attach)) = &mut opening.message else {
            return Err(Status::invalid_argument("the first message must carry `attach`"));
        };
        let route = Route::find(&self.core, &attach.workspace, true)?;
        attach.workspace.clone_from(&route.uid);
        let answer = route.node.sessions().attach_terminal(rest(opening, stream)).await;
        let replies = answer.map_err(|status| route.explain(status))?.into_inner();
        activity::note(&self.core, &route.uid);
        Ok(self.replies(replies))
    }

    async fn forward(&self, request: Request<Streaming<ForwardRequest>>) -> Answer<Self::ForwardStream> {
        let actor = actor::of(&request);
        let mut stream = request.into_inner();
        let mut opening = first(&mut stream, "`start`").await?;
        let Some(forward_request::Message::Start(start)) = &mut opening.message else {
            return Err(Status::invalid_argument("the first message must carry `start`"));
        };
        let route = Route::find(&self.core, &start.workspace, true)?;
        start.workspace.clone_from(&route.uid);
        self.core.audit.record(entries::forward(actor, &route.name, &route.uid, start.port)).await?;
        let answer = route.node.sessions().forward(rest(opening, stream)).await;
        let replies = answer.map_err(|status| route.explain(status))?.into_inner();
        activity::note(&self.core, &route.uid);
        Ok(self.replies(replies))
    }

    /// Also of a stopped workspace: its node keeps the log.
    async fn logs(&self, request: Request<LogsRequest>) -> Answer<Self::LogsStream> {
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, false)?;
        request.workspace.clone_from(&route.uid);
        let answer = route.node.sessions().logs(request).await;
        Ok(self.replies(answer.map_err(|status| route.explain(status))?.into_inner()))
    }

    async fn watch_denials(&self, request: Request<WatchDenialsRequest>) -> Answer<Self::WatchDenialsStream> {
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, true)?;
        request.workspace.clone_from(&route.uid);
        let answer = route.node.sessions().watch_denials(request).await;
        Ok(self.replies(answer.map_err(|status| route.explain(status))?.into_inner()))
    }

    async fn watch_ports(&self, request: Request<WatchPortsRequest>) -> Answer<Self::WatchPortsStream> {
        let mut request = request.into_inner();
        let route = Route::find(&self.core, &request.workspace, true)?;
        request.workspace.clone_from(&route.uid);
        let applications = applications::of_run(&self.core, &route.uid)?;
        let answer = route.node.sessions().watch_ports(request).await;
        let lists = answer.map_err(|status| route.explain(status))?.into_inner();
        Ok(self.replies(lists).map(|lists| -> Self::WatchPortsStream {
            Box::pin(lists.map(move |list| Ok(applications::name(list?, &applications))))
        }))
    }
}
