//! Hand-written stand-ins: a runtime without namespaces, an agent that speaks the real gRPC, an image store that
//! hands out one image. Each can be told to hang, fail or end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use cordium_proto::v1 as pb;
use cordium_proto::v1::{
    AgentEvent, Failure, FindOwnerRequest, FindOwnerResponse, Image, LogEntry, LogSource, LogsRequest,
    PrepareRequest, PrepareResponse, PruneImagesResponse, ShutdownRequest, ShutdownResponse,
    WatchAgentRequest,
    agent_event::{self, Event},
    agent_server::{Agent, AgentServer},
    session_server::{Session, SessionServer},
};
use cordium_runtime::{IdMap, SandboxPlan, cgroup::CgroupPlan};
use cordium_supervisor::{
    images::{ImageFailure, Images, Layers, Login, ProgressSink, RunImage},
    request_error::RequestError,
    runtime::{Ended, RuntimeFailure, SandboxHandle, SandboxRuntime},
};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use tokio::{net::UnixListener, sync::watch};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// What the agent does once it has been told to prepare.
#[derive(Clone, Default)]
pub enum Behaviour {
    #[default]
    Run,
    Silent,
    Fail(Failure),
    Finish,
    CreateThenFail(Failure),
    /// It runs, and warns without end.
    Chatter,
}

/// How the fakes behave; may be changed at any time.
#[derive(Clone, Default)]
pub struct Script {
    pub storage_hangs: bool,
    pub pull_hangs: bool,
    pub pull_panics: bool,
    pub pull_fails: Option<String>,
    pub start_takes: Duration,
    pub start_fails: Option<String>,
    pub agent: Behaviour,
    pub shutdown_takes: Duration,
    pub kill_fails: bool,
    pub policy_fails: bool,
    pub log_takes: Duration,
    /// What the agent says that its log has.
    pub log_seq: u64,
}

#[derive(Default)]
pub struct World {
    pub script: Mutex<Script>,
    /// By the workspace's uid.
    pub sandboxes: Mutex<HashMap<String, FakeSandbox>>,
    pub prepared: Mutex<Vec<PrepareRequest>>,
    pub shutdowns: Mutex<Vec<ShutdownRequest>>,
    pub pulls: Mutex<u32>,
    /// Trees that were given to a range of ids.
    pub given: Mutex<Vec<(PathBuf, IdMap)>>,
    /// Policies that running sandboxes were given, those at their start too.
    pub policies: Mutex<Vec<cordium_egress::Policy>>,
    /// Those that running sandboxes were given.
    pub renewals: Mutex<Vec<cordium_broker::Renewal>>,
    /// Those that sandboxes began with.
    pub credentials: Mutex<Vec<Option<cordium_broker::Credentials>>>,
    pub services: Mutex<Vec<Option<cordium_broker::Services>>>,
    /// The ids of each sandbox that was started.
    pub ids: Mutex<HashMap<String, IdMap>>,
}

impl World {
    pub fn script(&self) -> Script {
        self.script.lock().unwrap().clone()
    }
    pub fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }
    pub fn alive(&self) -> usize {
        self.sandboxes.lock().unwrap().len()
    }
    /// Ends a sandbox as if its first process had died.
    pub fn crash(&self, uid: &str, out_of_memory: bool) {
        if let Some(sandbox) = self.sandboxes.lock().unwrap().remove(uid) {
            sandbox.end(Ended {
                message: "PID 1 was ended by signal 9".into(),
                out_of_memory,
                storage: None,
            });
        }
    }
}

#[derive(Clone)]
pub struct FakeSandbox {
    uid: String,
    socket: PathBuf,
    ended: watch::Sender<Option<Ended>>,
    stop: CancellationToken,
    world: Arc<World>,
}

impl FakeSandbox {
    fn end(&self, ended: Ended) {
        self.stop.cancel();
        self.ended.send_replace(Some(ended));
    }
}

impl SandboxHandle for FakeSandbox {
    fn agent_socket(&self) -> PathBuf {
        self.socket.clone()
    }
    fn warnings(&self) -> Vec<String> {
        vec!["storage is not enforced".into()]
    }
    fn set_policy<'a>(
        &'a self,
        policy: &'a cordium_egress::Policy,
        renewal: Option<&'a cordium_broker::Renewal>,
    ) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        async move {
            if self.world.script().policy_fails {
                return Err(RuntimeFailure("the broker is gone".into()));
            }
            self.world.policies.lock().unwrap().push(policy.clone());
            if let Some(renewal) = renewal {
                self.world.renewals.lock().unwrap().push(renewal.clone());
            }
            Ok(())
        }
        .boxed()
    }
    fn wait(&self) -> BoxFuture<'_, Ended> {
        let mut ended = self.ended.subscribe();
        async move { ended.wait_for(Option::is_some).await.unwrap().clone().unwrap() }.boxed()
    }
    fn kill(&self, _: Duration) -> BoxFuture<'_, Result<(), RuntimeFailure>> {
        async move {
            if self.world.script().kill_fails {
                return Err(RuntimeFailure("a process is in uninterruptible sleep".into()));
            }
            self.world.sandboxes.lock().unwrap().remove(&self.uid);
            self.end(Ended { message: "killed".into(), out_of_memory: false, storage: None });
            Ok(())
        }
        .boxed()
    }
}

pub struct FakeRuntime(pub Arc<World>);

impl SandboxRuntime for FakeRuntime {
    fn cgroup(&self, _: &str) -> Option<CgroupPlan> {
        None
    }
    fn give_tree<'a>(&'a self, path: &'a Path, ids: &'a IdMap) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        self.0.given.lock().unwrap().push((path.to_owned(), *ids));
        async { Ok(()) }.boxed()
    }
    fn warnings(&self) -> Vec<String> {
        vec!["nothing is enforced".into()]
    }
    fn remove_tree<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        async move {
            if self.0.script().storage_hangs {
                std::future::pending::<()>().await;
            }
            match std::fs::remove_dir_all(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(RuntimeFailure(e.to_string())),
                _ => Ok(()),
            }
        }
        .boxed()
    }
    fn start<'a>(
        &'a self,
        plan: &'a SandboxPlan,
    ) -> BoxFuture<'a, Result<Arc<dyn SandboxHandle>, RuntimeFailure>> {
        async move {
            plan.check().map_err(|e| RuntimeFailure(e.to_string()))?;
            self.0.ids.lock().unwrap().insert(plan.id.clone(), plan.ids);
            self.0.credentials.lock().unwrap().push(plan.network.credentials.clone());
            self.0.services.lock().unwrap().push(plan.network.services.clone());
            self.0.policies.lock().unwrap().push(plan.network.policy.clone());
            assert!(plan.volume.is_dir() && plan.run_dir.is_dir());
            let script = self.0.script();
            tokio::time::sleep(script.start_takes).await;
            if let Some(message) = script.start_fails {
                return Err(RuntimeFailure(message));
            }
            let socket = plan.run_dir.join("agent.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let stop = CancellationToken::new();
            let sandbox = FakeSandbox {
                uid: plan.id.clone(),
                socket,
                ended: watch::Sender::new(None),
                stop: stop.clone(),
                world: self.0.clone(),
            };
            let agent = FakeAgent { events: watch::Sender::new(Vec::new()), world: self.0.clone() };
            let server = tonic::transport::Server::builder()
                .add_service(AgentServer::new(agent.clone()))
                .add_service(SessionServer::new(agent))
                .serve_with_incoming(UnixListenerStream::new(listener));
            // Ends at once, as the processes of a killed sandbox do.
            tokio::spawn(async move {
                tokio::select! { _ = server => {}, () = stop.cancelled() => {} }
            });
            self.0.sandboxes.lock().unwrap().insert(plan.id.clone(), sandbox.clone());
            Ok(Arc::new(sandbox) as Arc<dyn SandboxHandle>)
        }
        .boxed()
    }
    fn adopt<'a>(
        &'a self,
        uid: &'a str,
        _: &'a Path,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn SandboxHandle>>, RuntimeFailure>> {
        let found = self.0.sandboxes.lock().unwrap().get(uid).cloned();
        async move { Ok(found.map(|sandbox| Arc::new(sandbox) as Arc<dyn SandboxHandle>)) }.boxed()
    }
}

#[derive(Clone)]
struct FakeAgent {
    events: watch::Sender<Vec<Event>>,
    world: Arc<World>,
}

impl FakeAgent {
    fn say(&self, event: Event) {
        self.events.send_modify(|events| events.push(event));
    }
}

#[tonic::async_trait]
impl Agent for FakeAgent {
    type WatchAgentStream = BoxStream<'static, Result<AgentEvent, Status>>;

    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        self.world.prepared.lock().unwrap().push(request.into_inner());
        self.say(Event::Preparing(agent_event::Preparing {}));
        let running = || {
            Event::Running(agent_event::Running { user: "dev".into(), uid: 1000, home: "/home/dev".into() })
        };
        match self.world.script().agent {
            Behaviour::Run | Behaviour::Chatter => self.say(running()),
            Behaviour::Silent => {}
            Behaviour::Fail(failure) => self.say(Event::Failure(failure)),
            Behaviour::Finish => {
                self.say(running());
                self.say(Event::Finished(agent_event::Finished {}));
            }
            Behaviour::CreateThenFail(failure) => {
                self.say(Event::Created(agent_event::Created {}));
                self.say(Event::Failure(failure));
            }
        }
        Ok(Response::new(PrepareResponse {}))
    }

    async fn watch_agent(
        &self,
        _: Request<WatchAgentRequest>,
    ) -> Result<Response<Self::WatchAgentStream>, Status> {
        let (mut sent, log_seq) = (0, self.world.script().log_seq);
        let events = WatchStream::new(self.events.subscribe()).flat_map(move |events| {
            let new = events[sent..].to_vec();
            sent = events.len();
            futures::stream::iter(
                new.into_iter().map(move |event| Ok(AgentEvent { event: Some(event), log_seq })),
            )
        });
        if matches!(self.world.script().agent, Behaviour::Chatter) {
            let warn = || {
                Ok(AgentEvent { event: Some(Event::Warning("mind the gap".into())), ..Default::default() })
            };
            return Ok(Response::new(events.take(2).chain(futures::stream::repeat_with(warn)).boxed()));
        }
        Ok(Response::new(events.boxed()))
    }

    async fn find_owner(
        &self,
        request: Request<FindOwnerRequest>,
    ) -> Result<Response<FindOwnerResponse>, Status> {
        let program = format!("{} {}\u{1b}", request.get_ref().local, request.get_ref().remote);
        Ok(Response::new(FindOwnerResponse { pid: 7, program, task: "t".repeat(1000) }))
    }

    async fn shutdown(
        &self,
        request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        self.world.shutdowns.lock().unwrap().push(request.into_inner());
        tokio::time::sleep(self.world.script().shutdown_takes).await;
        Ok(Response::new(ShutdownResponse { warnings: vec![] }))
    }
}

fn entry(seq: u64, text: &str) -> LogEntry {
    LogEntry {
        seq,
        source: LogSource::Task.into(),
        name: "build".into(),
        data: text.to_owned().into(),
        ..LogEntry::default()
    }
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Session for FakeAgent {
    type ExecStream = Answers<pb::ExecResponse>;
    type AttachTerminalStream = Answers<pb::AttachTerminalResponse>;
    type ForwardStream = Answers<pb::ForwardResponse>;
    type LogsStream = Answers<LogEntry>;
    type WatchDenialsStream = Answers<pb::Denial>;
    type WatchPortsStream = Answers<pb::ListeningPorts>;

    /// Echoes its input, then exits with 7.
    async fn exec(
        &self,
        request: Request<Streaming<pb::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        use pb::{exec_request::Message as In, exec_response::Message as Out};
        let answers = request.into_inner().filter_map(|message| async move {
            let message = match message.ok()?.message? {
                In::Stdin(data) => Out::Stdout(data),
                In::StdinEof(_) => Out::Exit(pb::ExecExit { code: 7, ..Default::default() }),
                _ => return None,
            };
            Some(Ok(pb::ExecResponse { message: Some(message) }))
        });
        Ok(Response::new(answers.boxed()))
    }
    async fn create_terminal(
        &self,
        _: Request<pb::CreateTerminalRequest>,
    ) -> Result<Response<pb::CreateTerminalResponse>, Status> {
        Ok(Response::new(pb::CreateTerminalResponse { id: "t1".into() }))
    }
    async fn list_terminals(
        &self,
        _: Request<pb::ListTerminalsRequest>,
    ) -> Result<Response<pb::ListTerminalsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn remove_terminal(
        &self,
        _: Request<pb::RemoveTerminalRequest>,
    ) -> Result<Response<pb::RemoveTerminalResponse>, Status> {
        Ok(Response::new(Default::default()))
    }
    async fn attach_terminal(
        &self,
        _: Request<Streaming<pb::AttachTerminalRequest>>,
    ) -> Result<Response<Self::AttachTerminalStream>, Status> {
        Err(Status::unimplemented("the fake has no terminal to attach to"))
    }
    async fn forward(
        &self,
        _: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::failed_precondition("nothing serves port 1 inside"))
    }
    async fn watch_denials(
        &self,
        _: Request<pb::WatchDenialsRequest>,
    ) -> Result<Response<Self::WatchDenialsStream>, Status> {
        Err(Status::unimplemented("ask the supervisor"))
    }
    /// Port 80, and whoever follows never hears of another.
    async fn watch_ports(
        &self,
        request: Request<pb::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        let items = vec![pb::ListeningPort { port: 80, ..Default::default() }];
        let now = futures::stream::iter([Ok(pb::ListeningPorts { items, left_out: 0 })]);
        Ok(Response::new(if request.into_inner().follow {
            now.chain(futures::stream::pending()).boxed()
        } else {
            now.boxed()
        }))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let LogsRequest { after_seq, follow, .. } = request.into_inner();
        let entries = [entry(1, "compiling\n"), entry(2, "done\n")];
        tokio::time::sleep(self.world.script().log_takes).await;
        let there = futures::stream::iter(entries.into_iter().filter(move |e| e.seq > after_seq).map(Ok));
        Ok(Response::new(if follow {
            there.chain(futures::stream::pending()).boxed()
        } else {
            there.boxed()
        }))
    }
}

pub struct FakeImages(pub Arc<World>);

impl FakeImages {
    fn image(reference: &str) -> Arc<RunImage> {
        let config = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"config":{"Entrypoint":["tini","--"]}}"#;
        Arc::new(RunImage {
            reference: reference.to_owned(),
            digest: "sha256:00".into(),
            config: serde_json::from_str(config).unwrap(),
            lease: Box::new(()),
        })
    }
}

impl Images for FakeImages {
    fn ensure<'a>(
        &'a self,
        reference: &'a str,
        _: Option<Login>,
        _: ProgressSink,
    ) -> BoxFuture<'a, Result<Arc<RunImage>, ImageFailure>> {
        async move {
            *self.0.pulls.lock().unwrap() += 1;
            let script = self.0.script();
            assert!(!script.pull_panics, "as the script says");
            if script.pull_hangs {
                std::future::pending::<()>().await;
            }
            match script.pull_fails {
                Some(message) => Err(ImageFailure(message)),
                None => Ok(Self::image(reference)),
            }
        }
        .boxed()
    }
    fn layers<'a>(&'a self, _: &'a RunImage, _: &'a IdMap) -> BoxFuture<'a, Result<Layers, ImageFailure>> {
        async { Ok(Layers { dirs: vec!["/images/a".into()], data: None }) }.boxed()
    }
    fn hold(&self, digest: &str) -> Result<Arc<RunImage>, ImageFailure> {
        Ok(Self::image(digest))
    }
    fn list(&self) -> Result<Vec<Image>, RequestError> {
        Ok(Vec::new())
    }
    fn pull<'a>(
        &'a self,
        _: &'a str,
        _: Option<Login>,
        _: ProgressSink,
    ) -> BoxFuture<'a, Result<Image, RequestError>> {
        async { Ok(Image::default()) }.boxed()
    }
    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<u64, RequestError>> {
        async { Ok(0) }.boxed()
    }
    fn prune(&self, _: bool) -> BoxFuture<'_, Result<PruneImagesResponse, RequestError>> {
        async { Ok(PruneImagesResponse::default()) }.boxed()
    }
}
