//! A node by hand: a real gRPC server on a unix socket, with a journal that outlives it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use cordium_proto::v1::{
    self, CreateTerminalRequest, CreateTerminalResponse, DeleteRequest, DeleteResponse, ExecExit,
    ExecRequest, ExecResponse, Failure, GetNodeRequest, GetNodeResponse, Limit, ListNodeWorkspacesRequest,
    ListNodeWorkspacesResponse, LogEntry, LogsRequest, PhaseEvent, StartRequest, StartResponse, StopRequest,
    StopResponse, StoppingReason, WatchPhasesRequest, WorkspaceState as S, exec_request, exec_response,
    node_server::{Node, NodeServer},
    session_server::{Session, SessionServer},
};
use futures::{Stream, StreamExt as _};
use std::pin::Pin;
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Channel};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
pub struct State {
    pub journal: Vec<PhaseEvent>,
    /// Entries up to here are forgotten.
    pub horizon: u64,
    pub next: u64,
    pub starts: Vec<StartRequest>,
    pub latest: BTreeMap<String, PhaseEvent>,
    /// Start fails with this.
    pub refuse: Option<Status>,
    /// Start answers nothing, though it is done.
    pub mute: bool,
    /// A start goes only as far as this; RUNNING when unset.
    pub until: Option<S>,
    pub deleted: Vec<String>,
    pub deleted_volumes: Vec<String>,
    pub egress: Vec<v1::SetNodeEgressRequest>,
    /// SetEgress fails with this.
    pub keep_egress: Option<Status>,
    /// SetEgress answers that the sandbox is still being made.
    pub egress_later: bool,
    /// DeleteVolume fails with this.
    pub keep_volumes: Option<Status>,
    /// Those that are kept, as its broker has them.
    pub records: Vec<v1::EgressRecord>,
}

#[derive(Clone)]
pub struct FakeNode {
    pub name: String,
    pub capacity: Limit,
    pub state: Arc<Mutex<State>>,
    pub told: Arc<watch::Sender<u64>>,
    pub socket: PathBuf,
}

/// Ends the server, with every connection, when dropped: as `kill -9` would.
pub struct Up(Option<tokio::runtime::Runtime>);

impl Drop for Up {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeNode {
    pub fn new(dir: &Path, name: &str, memory_mib: u64) -> Self {
        Self {
            name: name.into(),
            capacity: Limit { memory_mib, cpu_millicores: 8000, ..Default::default() },
            state: Arc::default(),
            told: Arc::new(watch::channel(0).0),
            socket: dir.join(format!("{name}.sock")),
        }
    }

    pub fn up(&self) -> Up {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _ = std::fs::remove_file(&self.socket);
        let listener = std::os::unix::net::UnixListener::bind(&self.socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let node = self.clone();
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(NodeServer::new(node.clone()))
                .add_service(SessionServer::new(node))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Up(Some(runtime))
    }

    /// As [`Self::up`], on TCP with mutual TLS.
    pub fn up_tls(&self, listener: std::net::TcpListener, tls: tonic::transport::ServerTlsConfig) -> Up {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        listener.set_nonblocking(true).unwrap();
        let node = self.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tonic::transport::Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(NodeServer::new(node.clone()))
                .add_service(SessionServer::new(node))
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Up(Some(runtime))
    }

    pub fn channel(&self) -> Channel {
        super::unix_channel(&self.socket)
    }

    /// Waits until it has been told of these policies and credentials.
    pub async fn until_egress(&self, test: impl Fn(&[v1::SetNodeEgressRequest]) -> bool) {
        let heard = async {
            while !self.with(|n| test(&n.egress)) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, heard).await.expect("the node is told");
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    /// Appends a transition and tells it.
    pub fn tell(&self, uid: &str, state: S, change: impl FnOnce(&mut PhaseEvent)) -> u64 {
        let revision = self.with(|s| {
            s.next += 1;
            let before = s.latest.get(uid).cloned().unwrap_or_default();
            let now = std::time::SystemTime::now();
            let mut event = PhaseEvent {
                revision: s.next,
                node: self.name.clone(),
                last_state: before.state,
                state: state.into(),
                at: Some(now.into()),
                snapshot: false,
                workspace_uid: uid.into(),
                has_storage: true,
                ..before
            };
            change(&mut event);
            s.latest.insert(uid.into(), event.clone());
            s.journal.push(event);
            s.next
        });
        self.told.send_replace(revision);
        revision
    }

    /// Another record of egress.
    pub fn record(&self, record: v1::EgressRecord) {
        self.with(|s| s.records.push(record));
        self.told.send_modify(|_| ());
    }

    /// Forgets everything told so far, as a journal of limited length does.
    pub fn compact(&self) {
        self.with(|s| {
            s.horizon = s.next;
            s.journal.clear();
        });
    }

    fn go(&self, uid: &str, until: Option<S>) {
        for state in [S::Initializing, S::PullingImage, S::StartingRuntime, S::Preparing, S::Running] {
            if until.is_some_and(|last| (state as i32) > last as i32) {
                return;
            }
            self.tell(uid, state, |_| ());
        }
    }

    fn end(&self, uid: &str, reason: StoppingReason, failure: Option<Failure>) {
        let ephemeral = self.with(|s| {
            let start = s.starts.iter().rev().find(|start| start.workspace_uid == uid).unwrap();
            start.spec_json.contains("\"isEphemeral\":true")
        });
        self.tell(uid, S::StoppingRequest, |e| {
            e.stopping_reason = reason.into();
            e.failure = failure;
        });
        self.tell(uid, S::Stopping, |_| ());
        self.tell(uid, S::Stopped, |e| e.has_storage = !ephemeral);
    }

    /// The run ends by itself.
    pub fn fail(&self, uid: &str, failure: Failure) {
        self.end(uid, StoppingReason::Error, Some(failure));
    }
}

#[tonic::async_trait]
impl Node for FakeNode {
    type WatchPhasesStream = Replies<PhaseEvent>;
    type WatchEgressRecordsStream = Replies<v1::EgressRecord>;
    type PullImageStream = Replies<v1::PullProgress>;

    async fn get_node(&self, _: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let revision = self.with(|s| s.next);
        Ok(Response::new(GetNodeResponse {
            name: self.name.clone(),
            version: "test".into(),
            capacity: Some(self.capacity),
            revision,
            ..Default::default()
        }))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let request = request.into_inner();
        if let Some(status) = self.with(|s| s.refuse.clone()) {
            return Err(status);
        }
        if self.with(|s| s.starts.iter().any(|known| known.run_id == request.run_id)) {
            return Ok(Response::new(StartResponse { revision: self.with(|s| s.next) }));
        }
        let (uid, run_id) = (request.workspace_uid.clone(), request.run_id.clone());
        let (mute, until) = self.with(|s| {
            s.starts.push(request);
            s.latest.remove(&uid);
            (s.mute, s.until)
        });
        let revision = self.tell(&uid, S::InitRequest, |e| {
            e.run_id = run_id;
            e.last_state = S::Stopped.into();
        });
        self.go(&uid, until);
        if mute {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(StartResponse { revision }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let request = request.into_inner();
        let state = self.with(|s| s.latest.get(&request.workspace_uid).map(|e| e.state()));
        if state.is_none_or(|s| s == S::Stopped) {
            return Err(Status::failed_precondition("it is stopped"));
        }
        self.end(&request.workspace_uid, request.reason(), None);
        Ok(Response::new(StopResponse { revision: self.with(|s| s.next) }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let uid = request.into_inner().workspace_uid;
        let state = self.with(|s| s.latest.get(&uid).map(|e| e.state()));
        if state.is_some_and(|s| s != S::Stopped) {
            self.end(&uid, StoppingReason::Api, None);
        }
        self.with(|s| {
            s.latest.remove(&uid);
            s.deleted.push(uid);
        });
        Ok(Response::new(DeleteResponse {}))
    }

    async fn delete_volume(
        &self,
        request: Request<v1::DeleteVolumeRequest>,
    ) -> Result<Response<v1::DeleteVolumeResponse>, Status> {
        self.with(|s| match s.keep_volumes.clone() {
            Some(status) => Err(status),
            None => {
                s.deleted_volumes.push(request.into_inner().volume_uid);
                Ok(Response::new(v1::DeleteVolumeResponse {}))
            }
        })
    }

    async fn set_egress(
        &self,
        request: Request<v1::SetNodeEgressRequest>,
    ) -> Result<Response<v1::SetNodeEgressResponse>, Status> {
        self.with(|s| match s.keep_egress.clone() {
            Some(status) => Err(status),
            None => {
                s.egress.push(request.into_inner());
                Ok(Response::new(v1::SetNodeEgressResponse { in_force: !s.egress_later }))
            }
        })
    }

    async fn list(
        &self,
        _: Request<ListNodeWorkspacesRequest>,
    ) -> Result<Response<ListNodeWorkspacesResponse>, Status> {
        Ok(Response::new(self.with(|s| ListNodeWorkspacesResponse {
            items: s.latest.values().cloned().collect(),
            revision: s.next,
        })))
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        let usage = |uid: &String| (uid.clone(), v1::Usage { pids: 7, ..Default::default() });
        let items = request.into_inner().workspace_uids.iter().map(usage).collect();
        Ok(Response::new(v1::GetUsageResponse { items }))
    }

    async fn watch_phases(
        &self,
        request: Request<WatchPhasesRequest>,
    ) -> Result<Response<Self::WatchPhasesStream>, Status> {
        let mut cursor = request.into_inner().after_revision;
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let (node, mut told) = (self.clone(), self.told.subscribe());
        let mut fresh = cursor == 0;
        tokio::spawn(async move {
            loop {
                told.mark_unchanged();
                let (batch, upto) = node.with(|s| {
                    if std::mem::take(&mut fresh) || cursor < s.horizon {
                        let snapshot = s.latest.values().map(|e| PhaseEvent { snapshot: true, ..e.clone() });
                        return (snapshot.collect::<Vec<_>>(), s.next);
                    }
                    (s.journal.iter().filter(|e| e.revision > cursor).cloned().collect(), s.next)
                });
                for event in batch {
                    if sender.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                cursor = upto;
                if told.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn watch_egress_records(
        &self,
        request: Request<v1::WatchEgressRecordsRequest>,
    ) -> Result<Response<Self::WatchEgressRecordsStream>, Status> {
        let v1::WatchEgressRecordsRequest { mut epoch, mut after } = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let (node, mut told) = (self.clone(), self.told.subscribe());
        tokio::spawn(async move {
            loop {
                told.mark_unchanged();
                let batch: Vec<_> = node.with(|s| {
                    let new = |r: &&v1::EgressRecord| r.epoch != epoch || r.number > after;
                    s.records.iter().filter(new).cloned().collect()
                });
                for record in batch {
                    (epoch, after) = (record.epoch, record.number);
                    if sender.send(Ok(record)).await.is_err() {
                        return;
                    }
                }
                if told.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn list_images(
        &self,
        _: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Err(Status::unimplemented("no images here"))
    }
    async fn pull_image(
        &self,
        _: Request<v1::PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        Err(Status::unimplemented("no images here"))
    }
    async fn remove_image(
        &self,
        _: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageResponse>, Status> {
        Err(Status::unimplemented("no images here"))
    }
    async fn prune_images(
        &self,
        _: Request<v1::PruneImagesRequest>,
    ) -> Result<Response<v1::PruneImagesResponse>, Status> {
        Err(Status::unimplemented("no images here"))
    }
}

/// Exec is `cat` that first says which node and workspace it is in.
#[tonic::async_trait]
impl Session for FakeNode {
    type ExecStream = Replies<ExecResponse>;
    type AttachTerminalStream = Replies<v1::AttachTerminalResponse>;
    type ForwardStream = Replies<v1::ForwardResponse>;
    type LogsStream = Replies<LogEntry>;
    type WatchDenialsStream = Replies<v1::Denial>;
    type WatchPortsStream = Replies<v1::ListeningPorts>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut input = request.into_inner();
        let first = input.message().await?.and_then(|m| m.message);
        let Some(exec_request::Message::Start(start)) = first else {
            return Err(Status::invalid_argument("no start"));
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let hello = format!("{}:{}", self.name, start.workspace);
        tokio::spawn(async move {
            let out =
                |data: bytes::Bytes| ExecResponse { message: Some(exec_response::Message::Stdout(data)) };
            let _ = sender.send(Ok(out(hello.into()))).await;
            while let Some(Ok(message)) = input.next().await {
                match message.message {
                    Some(exec_request::Message::Stdin(data)) => {
                        if sender.send(Ok(out(data))).await.is_err() {
                            return;
                        }
                    }
                    _ => break,
                }
            }
            let exit = ExecExit { code: 7, ..Default::default() };
            let _ = sender.send(Ok(ExecResponse { message: Some(exec_response::Message::Exit(exit)) })).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn create_terminal(
        &self,
        request: Request<CreateTerminalRequest>,
    ) -> Result<Response<CreateTerminalResponse>, Status> {
        let id = format!("{}:{}", self.name, request.into_inner().workspace);
        Ok(Response::new(CreateTerminalResponse { id }))
    }

    async fn list_terminals(
        &self,
        _: Request<v1::ListTerminalsRequest>,
    ) -> Result<Response<v1::ListTerminalsResponse>, Status> {
        Err(Status::failed_precondition("the agent is not there yet"))
    }

    async fn remove_terminal(
        &self,
        _: Request<v1::RemoveTerminalRequest>,
    ) -> Result<Response<v1::RemoveTerminalResponse>, Status> {
        Ok(Response::new(v1::RemoveTerminalResponse {}))
    }

    async fn attach_terminal(
        &self,
        request: Request<Streaming<v1::AttachTerminalRequest>>,
    ) -> Result<Response<Self::AttachTerminalStream>, Status> {
        let echoed = request.into_inner().filter_map(|message| async move {
            use v1::{attach_terminal_request::Message as In, attach_terminal_response::Message as Out};
            let data = match message.ok()?.message? {
                In::Attach(attach) => attach.workspace.into(),
                In::Data(data) => data,
                In::Resize(_) => return None,
            };
            Some(Ok(v1::AttachTerminalResponse { message: Some(Out::Data(data)) }))
        });
        Ok(Response::new(Box::pin(echoed)))
    }

    /// Echoes, an end of data included.
    async fn forward(
        &self,
        request: Request<Streaming<v1::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let echoed = request.into_inner().filter_map(|message| async move {
            use v1::{forward_request::Message as In, forward_response::Message as Out};
            let message = match message.ok()?.message? {
                In::Start(start) => Out::Data(format!("{}:{}", start.workspace, start.port).into()),
                In::Data(data) => Out::Data(data),
                In::Eof(eof) => Out::Eof(eof),
            };
            Some(Ok(v1::ForwardResponse { message: Some(message) }))
        });
        Ok(Response::new(Box::pin(echoed)))
    }

    /// One, whose rule is the workspace that was asked for.
    async fn watch_denials(
        &self,
        request: Request<v1::WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>, Status> {
        let v1::WatchDenialsRequest { workspace, after, .. } = request.into_inner();
        let denial = v1::Denial { number: after + 1, rule: workspace, ..Default::default() };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(denial)]))))
    }

    /// Port 80, whose program is the workspace that was asked for.
    async fn watch_ports(
        &self,
        request: Request<v1::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        let program = request.into_inner().workspace;
        let items = vec![v1::ListeningPort { port: 80, program, ..Default::default() }];
        let list = v1::ListeningPorts { items, left_out: 0 };
        Ok(Response::new(Box::pin(tokio_stream::iter([Ok(list)]))))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let workspace = request.into_inner().workspace;
        let entries = (1..=3).map(move |seq| {
            Ok(LogEntry { seq, data: format!("{workspace} {seq}").into(), ..Default::default() })
        });
        let slow = tokio_stream::iter(entries).then(|entry| async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            entry
        });
        Ok(Response::new(Box::pin(slow)))
    }
}
