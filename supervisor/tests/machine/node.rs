//! A node made of fakes, and what the tests ask of it.

use std::{path::Path, sync::Arc, time::Duration};

use cordium_proto::v1::{
    DeleteRequest, DeleteVolumeRequest, PhaseEvent, SetNodeEgressRequest, StartRequest, StopRequest, Volume,
    WorkspaceState, node_server::Node as _,
};
use cordium_runtime::{IdMap, IdRange, Ranges};
use cordium_supervisor::{
    context::{Context, Dirs, SandboxSettings},
    grpc::{node::NodeService, session::SessionService},
    id_ranges::IdRanges,
    phases::{self, Ring},
    store::Store,
    timeouts::Timeouts,
    volumes::Volumes,
    workspaces::Workspaces,
};
use futures::StreamExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status};

use super::fakes::{FakeImages, FakeRuntime, World};

pub const UID: &str = "0198-a";

pub struct Node {
    pub context: Arc<Context>,
    pub node: NodeService,
    pub session: SessionService,
    pub workspaces: Arc<Workspaces>,
    pub world: Arc<World>,
}

pub fn timeouts() -> Timeouts {
    Timeouts {
        fresh_start: Duration::from_secs(20),
        start: Duration::from_secs(20),
        agent_lost: Duration::from_secs(1),
        kill: Duration::from_millis(300),
        grace: Duration::from_millis(100),
        ..Timeouts::default()
    }
}

/// How many ranges of ids the node has.
pub const RANGES: u32 = 3;

pub fn ids(index: u32) -> IdMap {
    let range = IdRange { host_start: 100_000 + index * 65_536, count: 65_536 };
    IdMap { uid: range, gid: range }
}

impl Node {
    pub fn open(dir: &Path, world: &Arc<World>) -> Self {
        Self::with(dir, world, timeouts())
    }

    pub fn with(dir: &Path, world: &Arc<World>, timeouts: Timeouts) -> Self {
        let dirs = Dirs { state: dir.join("state"), run: dir.join("run") };
        for dir in [&dirs.state, &dirs.run] {
            std::fs::create_dir_all(dir).unwrap();
        }
        let ring = Arc::new(Ring::default());
        let store = Store::open(&dirs.state.join("node.db"), ring.clone()).unwrap();
        let runtime = Arc::new(FakeRuntime(world.clone()));
        let volumes = Volumes::new(dirs.volumes(), runtime.clone());
        let context = Arc::new(Context {
            name: "n1".into(),
            sandbox: SandboxSettings {
                agent: "/bin/true".into(),
                broker_socket: dirs.broker_socket(),
                host_ports: vec![],
                egress: cordium_egress::DefaultAction::AllowPublic,
                protected_networks: vec!["10.96.0.0/12".to_owned()],
            },
            dirs,
            store: Arc::new(store),
            ring,
            images: Arc::new(FakeImages(world.clone())),
            volumes,
            ids: IdRanges::new(Ranges::new(ids(0), (1..RANGES).map(ids))),
            runtime,
            timeouts,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let workspaces = Arc::new(Workspaces::open(context.clone()).unwrap());
        Self {
            node: NodeService::new(context.clone(), workspaces.clone(), None),
            session: SessionService::new(workspaces.clone(), context.shutdown.clone()),
            workspaces,
            context,
            world: world.clone(),
        }
    }

    /// Ends the supervisor; what runs goes on.
    pub async fn end(self) {
        self.context.shutdown.cancel();
        self.context.tasks.close();
        tokio::time::timeout(Duration::from_secs(10), self.context.tasks.wait()).await.unwrap();
        self.context.store.close();
    }

    pub async fn start(&self, run: &str, spec: &str) -> Result<u64, Status> {
        self.start_with_secrets(run, spec, &[]).await
    }

    pub async fn start_with_secrets(
        &self,
        run: &str,
        spec: &str,
        secrets: &[(&str, &str)],
    ) -> Result<u64, Status> {
        let value = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned().into());
        let request = StartRequest {
            workspace_uid: UID.into(),
            workspace_name: "demo".into(),
            space: "default".into(),
            run_id: run.into(),
            spec_json: spec.into(),
            secrets: secrets.iter().map(value).collect(),
            ..StartRequest::default()
        };
        self.node.start(Request::new(request)).await.map(|answer| answer.into_inner().revision)
    }

    /// Starts a run of any workspace with these volumes, each as (uid, exclusive).
    pub async fn start_with(
        &self,
        uid: &str,
        run: &str,
        spec: &str,
        volumes: &[(&str, bool)],
    ) -> Result<u64, Status> {
        let volume = |(uid, exclusive): &(&str, bool)| Volume {
            uid: (*uid).into(),
            name: format!("{uid}-name"),
            exclusive: *exclusive,
            size_mib: 100,
        };
        let request = StartRequest {
            workspace_uid: uid.into(),
            workspace_name: "demo".into(),
            space: "default".into(),
            run_id: run.into(),
            spec_json: spec.into(),
            volumes: volumes.iter().map(volume).collect(),
            ..StartRequest::default()
        };
        self.node.start(Request::new(request)).await.map(|answer| answer.into_inner().revision)
    }

    pub async fn delete_volume(&self, uid: &str) -> Result<(), Status> {
        let request = DeleteVolumeRequest { volume_uid: uid.into() };
        self.node.delete_volume(Request::new(request)).await.map(drop)
    }

    pub async fn stop(&self, force: bool) -> Result<u64, Status> {
        let request = StopRequest { workspace_uid: UID.into(), force, ..StopRequest::default() };
        self.node.stop(Request::new(request)).await.map(|answer| answer.into_inner().revision)
    }

    /// Says whether it is in force.
    pub async fn set_egress(&self, run: &str, egress: &str) -> Result<bool, Status> {
        self.set_egress_and(run, egress, &[]).await
    }

    /// Beside the policy the values of secrets that credentials name.
    pub async fn set_egress_and(
        &self,
        run: &str,
        egress: &str,
        secrets: &[(&str, &str)],
    ) -> Result<bool, Status> {
        let value = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned().into());
        let request = SetNodeEgressRequest {
            secrets: secrets.iter().map(value).collect(),
            workspace_uid: UID.into(),
            run_id: run.into(),
            egress_json: egress.into(),
        };
        self.node.set_egress(Request::new(request)).await.map(|answer| answer.into_inner().in_force)
    }

    pub async fn delete(&self) -> Result<(), Status> {
        self.node.delete(Request::new(DeleteRequest { workspace_uid: UID.into() })).await.map(drop)
    }

    /// Every event after `revision` until one of `state`.
    pub async fn until(&self, revision: u64, state: WorkspaceState) -> Vec<PhaseEvent> {
        let (store, ring) = (self.context.store.clone(), self.context.ring.clone());
        let mut events = Box::pin(phases::watch(store, ring, revision, CancellationToken::new()));
        let mut seen = Vec::new();
        let collect = async {
            loop {
                let event = events.next().await.unwrap().unwrap();
                let last = event.state() == state;
                seen.push(event);
                if last {
                    return;
                }
            }
        };
        if tokio::time::timeout(Duration::from_secs(10), collect).await.is_err() {
            panic!("no {state:?} came, only {:?}", states(&seen));
        }
        seen
    }
}

/// The states in order, each once.
pub fn states(events: &[PhaseEvent]) -> Vec<WorkspaceState> {
    let mut states: Vec<_> = events.iter().map(|event| event.state()).collect();
    states.dedup();
    states
}
