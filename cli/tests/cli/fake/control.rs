use std::pin::Pin;

use cordium_proto::{
    HINT_KEY,
    v1::{control_server::Control, *},
};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{Fake, act};

type Answer<T> = Result<Response<T>, Status>;

fn missing(what: &str) -> Status {
    let mut status = Status::not_found(format!("{what:?} does not exist"));
    status.metadata_mut().insert(HINT_KEY, "look in the fake".parse().unwrap());
    status
}

impl Fake {
    fn find(&self, kind: i32, reference: &str) -> Option<Resource> {
        let resources = self.0.resources.lock().unwrap();
        let is = |r: &&Resource| {
            let meta = r.metadata.as_ref().unwrap();
            r.kind == kind && (meta.name == reference || meta.uid == reference)
        };
        resources.iter().find(is).cloned()
    }

    /// What a watcher gets first: the events after its revision, or every workspace as it is.
    fn past(&self, request: &WatchWorkspacesRequest) -> (Vec<WorkspaceEvent>, u64) {
        let events = self.0.events.lock().unwrap();
        let newest = events.len() as u64;
        if request.after_revision > 0 {
            let after = request.after_revision;
            return (events.iter().filter(|e| e.revision > after).cloned().collect(), after);
        }
        let resources = self.0.resources.lock().unwrap();
        let workspaces = resources.iter().filter(|r| r.kind() == Kind::Workspace);
        let snapshot = workspaces.map(|r| {
            let (meta, status) = (r.metadata.clone().unwrap(), r.status.clone().unwrap());
            let last =
                events.iter().rev().find_map(|e| e.phase.as_ref().filter(|p| p.workspace_uid == meta.uid));
            WorkspaceEvent {
                revision: last.map_or(0, |p| p.revision),
                phase: Some(PhaseEvent {
                    workspace_uid: meta.uid,
                    workspace_name: meta.name,
                    run_id: status.run.clone().unwrap_or_default().id,
                    state: status.state,
                    failure: last.and_then(|p| p.failure.clone()),
                    snapshot: true,
                    ..PhaseEvent::default()
                }),
                workspace: Some(r.clone()),
                deleted: false,
            }
        });
        (snapshot.collect(), newest)
    }

    fn workspace(&self, reference: &str) -> Result<Resource, Status> {
        self.find(Kind::Workspace.into(), reference).ok_or_else(|| missing(reference))
    }
}

#[tonic::async_trait]
impl Control for Fake {
    async fn create(&self, request: Request<CreateRequest>) -> Answer<Resource> {
        let request = request.into_inner();
        self.0.seen.lock().unwrap().created.push(request.clone());
        if self.find(request.kind, &request.name).is_some() {
            return Err(Status::already_exists(format!("{:?} exists", request.name)));
        }
        let (workspace, volume) = (request.kind() == Kind::Workspace, request.kind() == Kind::Volume);
        let resource = Resource {
            kind: request.kind,
            metadata: Some(Metadata {
                uid: format!("uid-{}", request.name),
                name: request.name,
                display_name: request.display_name,
                ..Metadata::default()
            }),
            spec_json: request.spec_json,
            space: "default".into(),
            status: workspace.then(|| WorkspaceStatus {
                state: WorkspaceState::Stopped.into(),
                node: "fake".into(),
                ..WorkspaceStatus::default()
            }),
            volume_status: volume.then(|| VolumeStatus {
                state: volume_status::State::Pending.into(),
                node: request.node,
                capacity_mib: 10_000,
                warnings: vec!["the size is not enforced".into()],
                ..VolumeStatus::default()
            }),
        };
        self.0.resources.lock().unwrap().push(resource.clone());
        Ok(Response::new(resource))
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Resource> {
        let request = request.into_inner();
        self.find(request.kind, &request.r#ref).map(Response::new).ok_or_else(|| missing(&request.r#ref))
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        let kind = request.into_inner().kind;
        let items = self.0.resources.lock().unwrap().iter().filter(|r| r.kind == kind).cloned().collect();
        Ok(Response::new(ListResponse { items }))
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<Resource> {
        let request = request.into_inner();
        self.0.seen.lock().unwrap().updated.push(request.clone());
        let mut resources = self.0.resources.lock().unwrap();
        let found = resources.iter_mut().find(|r| r.metadata.as_ref().unwrap().uid == request.r#ref);
        let resource = found.ok_or_else(|| missing(&request.r#ref))?;
        if let Some(spec) = request.spec_json {
            resource.spec_json = spec;
        }
        Ok(Response::new(resource.clone()))
    }

    async fn delete(&self, request: Request<DeleteResourceRequest>) -> Answer<DeleteResourceResponse> {
        let request = request.into_inner();
        let found = self.find(request.kind, &request.r#ref).ok_or_else(|| missing(&request.r#ref))?;
        let name = found.metadata.as_ref().unwrap().name.clone();
        self.0.seen.lock().unwrap().deleted.push(name);
        self.0.resources.lock().unwrap().retain(|r| r.metadata != found.metadata || r.kind != found.kind);
        let warnings = request.force.then(|| "node a does not answer".to_owned()).into_iter().collect();
        Ok(Response::new(DeleteResourceResponse { warnings }))
    }

    async fn start_workspace(&self, request: Request<StartWorkspaceRequest>) -> Answer<Resource> {
        let request = request.into_inner();
        let there = self.workspace(&request.r#ref)?;
        let uid = there.metadata.unwrap().uid;
        let run = {
            let mut seen = self.0.seen.lock().unwrap();
            seen.started.push(request);
            Run { id: format!("run-{}", seen.started.len()), ..Run::default() }
        };
        for r in self.0.resources.lock().unwrap().iter_mut() {
            if r.metadata.as_ref().unwrap().uid == uid {
                r.status.get_or_insert_default().run = Some(run.clone());
            }
        }
        let acts = self.0.script.lock().unwrap().clone();
        let (fake, id) = (self.clone(), uid.clone());
        tokio::spawn(async move {
            for act in acts {
                tokio::time::sleep(act.after).await;
                // A stop that came meanwhile ends the start.
                if !fake.0.seen.lock().unwrap().stopped.is_empty() {
                    return;
                }
                fake.move_to(&id, &act);
            }
        });
        Ok(Response::new(self.workspace(&uid)?))
    }

    async fn stop_workspace(&self, request: Request<StopWorkspaceRequest>) -> Answer<Resource> {
        let there = self.workspace(&request.into_inner().r#ref)?;
        if there.status.as_ref().unwrap().state() == WorkspaceState::Stopped {
            return Err(Status::failed_precondition("workspace is stopped"));
        }
        let meta = there.metadata.unwrap();
        self.0.seen.lock().unwrap().stopped.push(meta.name);
        if self.0.stop_hangs.load(std::sync::atomic::Ordering::Relaxed) {
            return Ok(Response::new(self.workspace(&meta.uid)?));
        }
        let (fake, uid) = (self.clone(), meta.uid.clone());
        tokio::spawn(async move {
            for state in [WorkspaceState::StoppingRequest, WorkspaceState::Stopping, WorkspaceState::Stopped]
            {
                fake.move_to(&uid, &act(state));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        Ok(Response::new(self.workspace(&meta.uid)?))
    }

    async fn set_egress(&self, request: Request<SetEgressRequest>) -> Answer<EgressPolicy> {
        let request = request.into_inner();
        let there = self.workspace(&request.r#ref)?;
        let running = there.status.is_some_and(|status| status.state() == WorkspaceState::Running);
        let spec = format!(r#"{{"runtime":{{"network":{{"egress":{}}}}}}}"#, request.egress_json);
        for r in self.0.resources.lock().unwrap().iter_mut() {
            if r.metadata == there.metadata {
                r.spec_json.clone_from(&spec);
            }
        }
        Ok(Response::new(EgressPolicy {
            egress_json: request.egress_json.clone(),
            merged_json: request.egress_json,
            in_force: running,
            ..EgressPolicy::default()
        }))
    }

    async fn get_egress(&self, request: Request<GetEgressRequest>) -> Answer<EgressPolicy> {
        let there = self.workspace(&request.into_inner().r#ref)?;
        let spec: serde_json::Value = serde_json::from_str(&there.spec_json).unwrap();
        let own = spec["runtime"]["network"]["egress"].to_string().replace("null", "{}");
        let merged_json = r#"{"defaultAction":"DENY"}"#.into();
        Ok(Response::new(EgressPolicy { egress_json: own, merged_json, ..EgressPolicy::default() }))
    }

    async fn share_port(&self, _: Request<SharePortRequest>) -> Answer<Resource> {
        Err(Status::unimplemented("not in the fake"))
    }

    type WatchWorkspacesStream = Pin<Box<dyn Stream<Item = Result<WorkspaceEvent, Status>> + Send>>;

    async fn watch_workspaces(
        &self,
        request: Request<WatchWorkspacesRequest>,
    ) -> Answer<Self::WatchWorkspacesStream> {
        let request = request.into_inner();
        self.0.seen.lock().unwrap().watched_after.push(request.after_revision);
        let live = BroadcastStream::new(self.0.live.subscribe()).filter_map(|e| async { e.ok() });
        let (past, mut sent) = self.past(&request);
        let wanted = request.r#ref;
        let stream = futures::stream::iter(past).chain(live).filter_map(move |e| {
            let phase = e.phase.as_ref().unwrap();
            let ours = wanted.is_empty() || wanted == phase.workspace_uid || wanted == phase.workspace_name;
            let fresh = phase.snapshot || e.revision > sent;
            sent = sent.max(e.revision);
            futures::future::ready((ours && fresh).then_some(Ok(e)))
        });
        match self.0.break_watch_after.lock().unwrap().take() {
            Some(n) => Ok(Response::new(Box::pin(stream.take(n)))),
            None => Ok(Response::new(Box::pin(stream))),
        }
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        let node =
            GetNodeResponse { name: "fake".into(), version: "9.9.9".into(), ..GetNodeResponse::default() };
        Ok(Response::new(GetStatusResponse {
            version: "9.9.9".into(),
            nodes: vec![NodeStatus { node: Some(node), reachable: true, ..NodeStatus::default() }],
            workspaces_by_state: [("RUNNING".to_owned(), 2)].into(),
            ..GetStatusResponse::default()
        }))
    }
}
