//! The Control service: unpacks requests, calls [`crate::control`], turns errors into statuses.

use std::{pin::Pin, sync::Arc};

use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, DeleteResourceResponse, EgressPolicy, GetEgressRequest, GetRequest,
    GetStatusRequest, GetStatusResponse, Kind, ListRequest, ListResponse, Resource, SetEgressRequest,
    SharePortRequest, StartWorkspaceRequest, StopWorkspaceRequest, UpdateRequest, WatchWorkspacesRequest,
    WorkspaceEvent, control_server::Control,
};
use futures::Stream;
use tonic::{Request, Response, Status};

use crate::{
    audit::{self, actor, entries},
    control::{create, delete, egress, read, share, start, stop, update},
    core::Core,
    error::ApiError,
    names, watch,
};

/// Implements the Control, the Session and the Audit service.
#[derive(Clone)]
pub struct ControlService {
    pub(crate) core: Arc<Core>,
}

impl ControlService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    pub(crate) fn open(&self) -> Result<&Arc<Core>, ApiError> {
        if self.core.shutdown.is_cancelled() { Err(ApiError::ShuttingDown) } else { Ok(&self.core) }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for ControlService {
    type WatchWorkspacesStream = Pin<Box<dyn Stream<Item = Result<WorkspaceEvent, Status>> + Send>>;

    async fn create(&self, mut request: Request<CreateRequest>) -> Answer<Resource> {
        let asked = request.get_mut();
        if asked.kind() == Kind::Workspace && asked.name.is_empty() {
            asked.name = names::generated();
        }
        let (core, entry) = (self.open()?, entries::create(actor::of(&request), request.get_ref()));
        let user = actor::user(&request);
        let made = core.audit.around(entry, create::create(core, request.into_inner(), user));
        Ok(made.await.map(Response::new)?)
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Resource> {
        Ok(read::get(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        Ok(read::list(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<Resource> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::update(actor::of(&request), asked);
        let entry = audit::about(core, asked.kind(), &asked.r#ref, &asked.space, entry);
        let updated = core.audit.around(entry, update::update(core, request.into_inner()));
        Ok(updated.await.map(Response::new)?)
    }

    async fn delete(&self, request: Request<DeleteResourceRequest>) -> Answer<DeleteResourceResponse> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::delete(actor::of(&request), asked);
        let entry = audit::about(core, asked.kind(), &asked.r#ref, &asked.space, entry);
        let deleted = core.audit.around_what_frees(entry, delete::delete(core, request.into_inner()));
        let warnings = deleted.await?;
        Ok(Response::new(DeleteResourceResponse { warnings }))
    }

    async fn start_workspace(&self, request: Request<StartWorkspaceRequest>) -> Answer<Resource> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::start(actor::of(&request), asked);
        let entry = audit::about(core, Kind::Workspace, &asked.r#ref, &asked.space, entry);
        let user = actor::user(&request);
        let started = core
            .audit
            .around(entry, async { start::start(core, start::Wish::new(request.into_inner(), user)?).await });
        Ok(started.await.map(Response::new)?)
    }

    async fn stop_workspace(&self, request: Request<StopWorkspaceRequest>) -> Answer<Resource> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::stop(actor::of(&request), asked);
        let entry = audit::about(core, Kind::Workspace, &asked.r#ref, &asked.space, entry);
        let stopped = core.audit.around_what_frees(entry, stop::stop(core, request.into_inner()));
        Ok(stopped.await.map(Response::new)?)
    }

    async fn set_egress(&self, request: Request<SetEgressRequest>) -> Answer<EgressPolicy> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::egress(actor::of(&request), asked);
        let entry = audit::about(core, Kind::Workspace, &asked.r#ref, &asked.space, entry);
        let set = core.audit.around(entry, egress::set(core, request.into_inner()));
        Ok(set.await.map(Response::new)?)
    }

    async fn get_egress(&self, request: Request<GetEgressRequest>) -> Answer<EgressPolicy> {
        Ok(egress::get(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn share_port(&self, request: Request<SharePortRequest>) -> Answer<Resource> {
        let (core, asked) = (self.open()?, request.get_ref());
        let entry = entries::share(actor::of(&request), asked);
        let entry = audit::about(core, Kind::Workspace, &asked.r#ref, &asked.space, entry);
        let shared = core.audit.around(entry, share::share(core, request.into_inner()));
        Ok(shared.await.map(Response::new)?)
    }

    async fn watch_workspaces(
        &self,
        request: Request<WatchWorkspacesRequest>,
    ) -> Answer<Self::WatchWorkspacesStream> {
        let stream = watch::watch(self.open()?, request.into_inner())?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<GetStatusResponse> {
        Ok(read::status(self.open()?).await.map(Response::new)?)
    }
}
