//! The scheduler on a unix socket, driving nodes made by hand.
#![allow(dead_code, unused_imports, clippy::unwrap_used)]

pub mod node;

use std::{path::Path, time::Duration};

use cordium_proto::v1::{
    CreateRequest, GetRequest, Kind, Resource, StartWorkspaceRequest, StopWorkspaceRequest,
    WatchWorkspacesRequest, WorkspaceEvent, WorkspaceState as S, WorkspaceStatus, audit_client::AuditClient,
    control_client::ControlClient, session_client::SessionClient,
};
use cordium_scheduler::{Config, NodeTarget};
use hyper_util::rt::TokioIo;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

pub use node::{FakeNode, Up};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn unix_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    Endpoint::from_static("http://local").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

/// A scheduler on a runtime of its own, so that dropping it is as sudden as `kill -9`.
pub struct Scheduler {
    runtime: Option<tokio::runtime::Runtime>,
    channel: Channel,
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Scheduler {
    pub async fn up(dir: &Path, nodes: &[&FakeNode]) -> Self {
        Self::up_with(dir, nodes, |_| ()).await
    }

    pub async fn up_with(dir: &Path, nodes: &[&FakeNode], change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(&dir.join("control.db"), &dir.join("secret.key"));
        config.poll = Duration::from_millis(200);
        config.backoff = (Duration::from_millis(20), Duration::from_millis(100));
        change(&mut config);
        let socket = dir.join("scheduler.sock");
        let _ = std::fs::remove_file(&socket);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let nodes: Vec<_> = nodes.iter().map(|n| (n.name.clone(), (*n).clone())).collect();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let path = socket.clone();
        runtime.spawn(async move {
            let targets = nodes.into_iter().map(|(name, node)| NodeTarget { name, channel: node.channel() });
            let scheduler = cordium_scheduler::start(config, targets.collect()).await.unwrap();
            let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(path).unwrap());
            ready.send(()).unwrap();
            tonic::transport::Server::builder()
                .add_service(scheduler.control_server())
                .add_service(scheduler.session_server())
                .add_service(scheduler.audit_server())
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        is_ready.await.unwrap();
        Self { runtime: Some(runtime), channel: unix_channel(&socket) }
    }

    pub fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
    }

    pub fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone())
    }

    pub fn audit(&self) -> AuditClient<Channel> {
        AuditClient::new(self.channel.clone())
    }

    /// Waits until no node is to be told of a policy or of credentials any more.
    pub async fn until_all_told(&self, dir: &Path) {
        let db = rusqlite::Connection::open(dir.join("control.db")).unwrap();
        let left = || db.query_row("SELECT count(*) FROM egress_to_tell", [], |row| row.get::<_, i64>(0));
        let waiting = async {
            while left().unwrap() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("nodes are not told for ever");
    }

    /// Waits until the store has the hash of that record of the audit log.
    pub async fn until_kept(&self, dir: &Path, seq: i64) {
        let db = rusqlite::Connection::open(dir.join("control.db")).unwrap();
        let kept = || db.query_row("SELECT head_seq FROM audit_kept", [], |row| row.get::<_, i64>(0));
        let waiting = async {
            while kept().unwrap_or_default() < seq {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the audit log's head in the store");
    }

    pub async fn create(&self, name: &str, spec: &str) -> Resource {
        self.control().create(workspace(name, spec)).await.unwrap().into_inner()
    }

    pub async fn start(&self, name: &str) -> Result<Resource, tonic::Status> {
        let request = StartWorkspaceRequest { r#ref: name.into(), ..Default::default() };
        self.control().start_workspace(request).await.map(tonic::Response::into_inner)
    }

    pub async fn stop(&self, name: &str) -> Result<Resource, tonic::Status> {
        let request = StopWorkspaceRequest { r#ref: name.into(), ..Default::default() };
        self.control().stop_workspace(request).await.map(tonic::Response::into_inner)
    }

    pub async fn get(&self, name: &str) -> Resource {
        let request = GetRequest { kind: Kind::Workspace.into(), r#ref: name.into(), ..Default::default() };
        self.control().get(request).await.unwrap().into_inner()
    }

    pub async fn status(&self, name: &str) -> WorkspaceStatus {
        self.get(name).await.status.unwrap()
    }

    pub async fn until(
        &self,
        name: &str,
        what: &str,
        test: impl Fn(&WorkspaceStatus) -> bool,
    ) -> WorkspaceStatus {
        let waiting = async {
            loop {
                let status = self.status(name).await;
                if test(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(status) => status,
            Err(_) => panic!("{name} did not become {what}: {:?}", self.status(name).await),
        }
    }

    pub async fn until_state(&self, name: &str, state: S) -> WorkspaceStatus {
        self.until(name, state.short_name(), |s| s.state() == state).await
    }

    pub async fn reachable(&self, node: &str, wanted: bool) -> cordium_proto::v1::NodeStatus {
        let waiting = async {
            loop {
                let status = self.control().get_status(cordium_proto::v1::GetStatusRequest {}).await.unwrap();
                let nodes = status.into_inner().nodes;
                let found = nodes.into_iter().find(|n| n.node.as_ref().unwrap().name == node).unwrap();
                if found.reachable == wanted {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the node's reachability")
    }

    pub async fn watch(&self, after_revision: u64) -> Watch {
        self.watch_ref(after_revision, "").await
    }

    pub async fn watch_ref(&self, after_revision: u64, name: &str) -> Watch {
        let request = WatchWorkspacesRequest { after_revision, r#ref: name.into(), ..Default::default() };
        Watch(self.control().watch_workspaces(request).await.unwrap().into_inner())
    }
}

pub struct Watch(pub Streaming<WorkspaceEvent>);

impl Watch {
    pub async fn next(&mut self) -> Option<WorkspaceEvent> {
        tokio::time::timeout(PATIENCE, self.0.message()).await.expect("an event in time").unwrap()
    }

    /// Everything until the test holds, that event included.
    pub async fn until(&mut self, mut test: impl FnMut(&WorkspaceEvent) -> bool) -> Vec<WorkspaceEvent> {
        let mut seen = Vec::new();
        while let Some(event) = self.next().await {
            let done = test(&event);
            seen.push(event);
            if done {
                return seen;
            }
        }
        panic!("the stream ended: {seen:?}");
    }
}

pub fn state_of(event: &WorkspaceEvent) -> Option<S> {
    event.phase.as_ref().map(|p| p.state())
}

pub fn workspace(name: &str, spec: &str) -> CreateRequest {
    CreateRequest {
        kind: Kind::Workspace.into(),
        name: name.into(),
        spec_json: spec.into(),
        ..Default::default()
    }
}

pub fn memory(mib: u64) -> String {
    format!(r#"{{"limit":{{"memory":{{"megabytes":{mib}}},"cpu":{{"millicores":500}}}}}}"#)
}
