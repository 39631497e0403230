//! The Control service: unpacks requests, calls [`crate::control`], turns errors into statuses.

use std::{pin::Pin, sync::Arc};

use cordium_proto::v1::{
    CreateRequest, DeleteResourceRequest, DeleteResourceResponse, GetRequest, GetStatusRequest,
    GetStatusResponse, ListRequest, ListResponse, Resource, SharePortRequest, StartWorkspaceRequest,
    StopWorkspaceRequest, UpdateRequest, WatchWorkspacesRequest, WorkspaceEvent, control_server::Control,
};
use futures::Stream;
use tonic::{Request, Response, Status};

use crate::{
    control::{create, delete, read, share, start, stop, update},
    core::Core,
    error::ApiError,
    watch,
};

/// Implements the Control and the Session service.
#[derive(Clone)]
pub struct ControlService {
    pub(crate) core: Arc<Core>,
}

impl ControlService {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn open(&self) -> Result<&Arc<Core>, ApiError> {
        if self.core.shutdown.is_cancelled() { Err(ApiError::ShuttingDown) } else { Ok(&self.core) }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for ControlService {
    type WatchWorkspacesStream = Pin<Box<dyn Stream<Item = Result<WorkspaceEvent, Status>> + Send>>;

    async fn create(&self, request: Request<CreateRequest>) -> Answer<Resource> {
        Ok(create::create(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Resource> {
        Ok(read::get(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListResponse> {
        Ok(read::list(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<Resource> {
        Ok(update::update(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn delete(&self, request: Request<DeleteResourceRequest>) -> Answer<DeleteResourceResponse> {
        let warnings = delete::delete(self.open()?, request.into_inner()).await?;
        Ok(Response::new(DeleteResourceResponse { warnings }))
    }

    async fn start_workspace(&self, request: Request<StartWorkspaceRequest>) -> Answer<Resource> {
        let wish = start::Wish::try_from(request.into_inner())?;
        Ok(start::start(self.open()?, wish).await.map(Response::new)?)
    }

    async fn stop_workspace(&self, request: Request<StopWorkspaceRequest>) -> Answer<Resource> {
        Ok(stop::stop(self.open()?, request.into_inner()).await.map(Response::new)?)
    }

    async fn share_port(&self, request: Request<SharePortRequest>) -> Answer<Resource> {
        Ok(share::share(self.open()?, request.into_inner()).await.map(Response::new)?)
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
