//! `cordium.v1.Agent`: the supervisor's side.

use std::pin::Pin;
use std::sync::Arc;

use cordium_proto::v1::agent_server::Agent;
use cordium_proto::v1::{
    AgentEvent, FindOwnerRequest, FindOwnerResponse, PrepareRequest, PrepareResponse, ShutdownRequest,
    ShutdownResponse, WatchAgentRequest,
};
use futures::stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::guard;
use crate::prepare;
use crate::shutdown::shut_down;
use crate::state::{Run, Stage, State};

pub struct AgentService(pub Arc<State>);

#[tonic::async_trait]
impl Agent for AgentService {
    async fn prepare(&self, request: Request<PrepareRequest>) -> Result<Response<PrepareResponse>, Status> {
        guard(async { begin(&self.0, request.into_inner()) }).await
    }

    type WatchAgentStream = Pin<Box<dyn Stream<Item = Result<AgentEvent, Status>> + Send>>;

    async fn watch_agent(
        &self,
        _: Request<WatchAgentRequest>,
    ) -> Result<Response<Self::WatchAgentStream>, Status> {
        Ok(Response::new(Box::pin(self.0.events.watch().map(Ok))))
    }

    async fn find_owner(
        &self,
        request: Request<FindOwnerRequest>,
    ) -> Result<Response<FindOwnerResponse>, Status> {
        let State { owners, task_sessions, .. } = &*self.0;
        guard(async { Ok(Response::new(owners.find(request.get_ref(), task_sessions).await?)) }).await
    }

    async fn shutdown(
        &self,
        request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        let (state, request) = (Arc::clone(&self.0), request.into_inner());
        // A caller that goes away does not leave the sandbox half stopped.
        let work = tokio::spawn(async move { shut_down(&state, request).await });
        match work.await {
            Ok(warnings) => Ok(Response::new(ShutdownResponse { warnings })),
            Err(error) => Err(Status::internal(format!("the shutdown failed: {error}"))),
        }
    }
}

fn begin(state: &Arc<State>, request: PrepareRequest) -> Result<Response<PrepareResponse>, Status> {
    if request.run_id.is_empty() {
        return Err(Status::invalid_argument("run_id is empty"));
    }
    let mut run = state.run();
    if let Some(run) = run.as_ref() {
        let same = run.request.run_id == request.run_id;
        let refusal = format!("this sandbox belongs to run {}", run.request.run_id);
        return if same {
            Ok(Response::new(PrepareResponse {}))
        } else {
            Err(Status::failed_precondition(refusal))
        };
    }
    if matches!(state.stage(), Stage::Stopping) {
        return Err(Status::failed_precondition("the workspace is stopping"));
    }
    state.logs.set_run(&request.run_id);
    state.enter(Stage::Preparing);
    let request = Arc::new(request);
    let job = tokio::spawn(prepare::run(Arc::clone(state), Arc::clone(&request)));
    *run = Some(Run { request, job: job.abort_handle() });
    tokio::spawn(watch_for_panic(Arc::clone(state), job));
    Ok(Response::new(PrepareResponse {}))
}

/// A preparation that breaks is a failed run, not one that hangs.
async fn watch_for_panic(state: Arc<State>, job: tokio::task::JoinHandle<()>) {
    if job.await.is_err_and(|error| error.is_panic()) {
        let failure = crate::failures::unknown("preparing the sandbox failed inside the agent".into());
        if !matches!(state.stage(), Stage::Ready(_)) {
            state.enter(Stage::Failed);
        }
        state.events.failure(failure);
    }
}
