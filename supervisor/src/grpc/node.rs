//! The Node service: what schedulers and administrators of the node ask for.

use std::{sync::Arc, time::SystemTime};

use cordium_proto::v1::{
    DeleteRequest, DeleteResponse, DeleteVolumeRequest, DeleteVolumeResponse, EgressRecord, GetNodeRequest,
    GetNodeResponse, GetUsageRequest, GetUsageResponse, ListImagesRequest, ListImagesResponse,
    ListNodeWorkspacesRequest, ListNodeWorkspacesResponse, PhaseEvent, PruneImagesRequest,
    PruneImagesResponse, PullImageRequest, PullProgress, RemoveImageRequest, RemoveImageResponse,
    SetNodeEgressRequest, SetNodeEgressResponse, StartRequest, StartResponse, StopRequest, StopResponse,
    WatchEgressRecordsRequest, WatchPhasesRequest, node_server::Node,
};
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{
    denials,
    status::{of_store, shutting_down},
};
use crate::{
    capacity,
    context::Context,
    images::{Login, Progress},
    phases,
    plan::{Asked, Secrets, check_id, run_plan},
    request_error::RequestError,
    workspaces::Workspaces,
};

/// The longest spec in a request.
const SPEC_BYTES: usize = 1 << 20;
/// How many progress messages may wait for a slow client; more are left out.
const PROGRESS: usize = 64;

/// The node's Node service.
#[derive(Clone)]
pub struct NodeService {
    context: Arc<Context>,
    workspaces: Arc<Workspaces>,
    base_image: Option<String>,
    started_at: SystemTime,
}

impl NodeService {
    /// Serves `workspaces`.
    pub fn new(context: Arc<Context>, workspaces: Arc<Workspaces>, base_image: Option<String>) -> Self {
        Self { context, workspaces, base_image, started_at: SystemTime::now() }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type WatchPhasesStream = BoxStream<'static, Result<PhaseEvent, Status>>;
    type WatchEgressRecordsStream = BoxStream<'static, Result<EgressRecord, Status>>;
    type PullImageStream = BoxStream<'static, Result<PullProgress, Status>>;

    async fn get_node(&self, _: Request<GetNodeRequest>) -> Result<Response<GetNodeResponse>, Status> {
        let (allocated, running) = self.workspaces.allocated();
        Ok(Response::new(GetNodeResponse {
            name: self.context.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capacity: Some(capacity::of_node(&self.context.dirs.state)),
            allocated: Some(allocated),
            running_workspaces: running,
            revision: self.context.ring.newest(),
            started_at: Some(self.started_at.into()),
            warnings: self.context.runtime.warnings(),
            state_dir: self.context.dirs.state.display().to_string(),
        }))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let request = request.into_inner();
        let asked = Asked::from_request(&request)?;
        if request.spec_json.len() > SPEC_BYTES {
            return Err(RequestError::Invalid(format!("spec_json: is longer than {SPEC_BYTES} bytes")).into());
        }
        let invalid = |error: cordium_spec::SpecError| RequestError::Invalid(error.to_string());
        let spec = cordium_spec::parse_resolved_json(&request.spec_json).map_err(invalid)?;
        let secrets = Secrets::new(request.secrets).map_err(RequestError::Invalid)?;
        let plan = run_plan(&asked, &spec, &secrets, self.base_image.as_deref())?;
        let revision = self.workspaces.start(plan, request.spec_json).await?;
        Ok(Response::new(StartResponse { revision }))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        let request = request.into_inner();
        let revision = self.workspaces.stop(&request.workspace_uid, request.reason(), request.force).await?;
        Ok(Response::new(StopResponse { revision }))
    }

    async fn set_egress(
        &self,
        request: Request<SetNodeEgressRequest>,
    ) -> Result<Response<SetNodeEgressResponse>, Status> {
        let request = request.into_inner();
        if request.egress_json.len() > SPEC_BYTES {
            return Err(
                RequestError::Invalid(format!("egress_json: is longer than {SPEC_BYTES} bytes")).into()
            );
        }
        let egress = cordium_spec::parse_merged_egress(&request.egress_json)
            .map_err(|error| RequestError::Invalid(error.to_string()))?;
        let secrets = Secrets::new(request.secrets).map_err(RequestError::Invalid)?;
        let set = self.workspaces.set_egress(&request.workspace_uid, request.run_id, egress, secrets);
        let in_force = set.await?;
        Ok(Response::new(SetNodeEgressResponse { in_force }))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let uid = request.into_inner().workspace_uid;
        check_id("workspace_uid", &uid)?;
        self.workspaces.delete(&uid).await?;
        Ok(Response::new(DeleteResponse {}))
    }

    async fn delete_volume(
        &self,
        request: Request<DeleteVolumeRequest>,
    ) -> Result<Response<DeleteVolumeResponse>, Status> {
        let uid = request.into_inner().volume_uid;
        check_id("volume_uid", &uid)?;
        // It goes on when nobody waits for it any more.
        let context = self.context.clone();
        let deletion = self.context.tasks.spawn(async move { context.volumes.delete(&uid).await });
        deletion.await.map_err(|_| shutting_down())??;
        Ok(Response::new(DeleteVolumeResponse {}))
    }

    async fn list(
        &self,
        _: Request<ListNodeWorkspacesRequest>,
    ) -> Result<Response<ListNodeWorkspacesResponse>, Status> {
        let store = self.context.store.clone();
        let snapshot = tokio::task::spawn_blocking(move || store.reader().snapshot())
            .await
            .map_err(|_| shutting_down())?
            .map_err(of_store)?;
        Ok(Response::new(ListNodeWorkspacesResponse { items: snapshot.events, revision: snapshot.revision }))
    }

    async fn get_usage(
        &self,
        request: Request<GetUsageRequest>,
    ) -> Result<Response<GetUsageResponse>, Status> {
        let uids = request.into_inner().workspace_uids;
        let workspaces = self.workspaces.clone();
        // Each takes a few reads of cgroup files.
        let items = tokio::task::spawn_blocking(move || workspaces.usage(&uids));
        Ok(Response::new(GetUsageResponse { items: items.await.map_err(|_| shutting_down())? }))
    }

    async fn watch_phases(
        &self,
        request: Request<WatchPhasesRequest>,
    ) -> Result<Response<Self::WatchPhasesStream>, Status> {
        let context = &self.context;
        let after = request.into_inner().after_revision;
        let events =
            phases::watch(context.store.clone(), context.ring.clone(), after, context.shutdown.clone());
        Ok(Response::new(events.map_err(of_store).boxed()))
    }

    async fn watch_egress_records(
        &self,
        request: Request<WatchEgressRecordsRequest>,
    ) -> Result<Response<Self::WatchEgressRecordsStream>, Status> {
        let WatchEgressRecordsRequest { epoch, after } = request.into_inner();
        let records = cordium_broker::watch_records(self.workspaces.broker_socket(), epoch, after).await;
        let records = records.map_err(|error| denials::of_broker(&error))?;
        Ok(Response::new(denials::pass_records(records, self.context.shutdown.clone())))
    }

    async fn list_images(
        &self,
        _: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        let images = self.context.images.clone();
        let items =
            tokio::task::spawn_blocking(move || images.list()).await.map_err(|_| shutting_down())??;
        Ok(Response::new(ListImagesResponse { items }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<Self::PullImageStream>, Status> {
        let request = request.into_inner();
        if request.reference.is_empty() {
            return Err(RequestError::Invalid("reference: is empty".to_owned()).into());
        }
        let (messages, stream) = mpsc::channel(PROGRESS);
        let images = self.context.images.clone();
        let shutdown = self.context.shutdown.clone();
        let login = (!request.username.is_empty())
            .then(|| Login { username: request.username.clone(), password: request.password.clone() });
        self.context.tasks.spawn(async move {
            let progress = messages.clone();
            let sink = Arc::new(move |at: Progress| {
                let message = PullProgress {
                    layer: at.layer,
                    step: at.step.into(),
                    done_bytes: at.done,
                    total_bytes: at.total,
                    image: None,
                };
                // A slow client misses some progress, never the end.
                let _ = progress.try_send(Ok(message));
            });
            let result = tokio::select! {
                () = shutdown.cancelled() => Err(shutting_down()),
                // Nobody waits for it any more.
                () = messages.closed() => return,
                pulled = images.pull(&request.reference, login, sink) => pulled.map_err(Status::from),
            };
            let last = result.map(|image| PullProgress {
                step: cordium_proto::v1::pull_progress::Step::Done.into(),
                image: Some(image),
                ..PullProgress::default()
            });
            // The client may have gone meanwhile.
            let _ = messages.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let freed_bytes = self.context.images.remove(&request.into_inner().reference).await?;
        Ok(Response::new(RemoveImageResponse { freed_bytes }))
    }

    async fn prune_images(
        &self,
        request: Request<PruneImagesRequest>,
    ) -> Result<Response<PruneImagesResponse>, Status> {
        Ok(Response::new(self.context.images.prune(request.into_inner().all).await?))
    }
}
