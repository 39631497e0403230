//! WatchWorkspaces: the journal from a revision on.
//!
//! Each watcher has a task that reads the journal at the pace of its reader. What it has not read yet stays on
//! disk, so a slow reader costs nothing and loses nothing; one that falls behind the oldest entry gets a snapshot.
//!
//! A snapshot is every workspace once, in the order of its newest entry, under that entry's revision. So a
//! watcher may resume from any event that it has got, within a snapshot too.

use std::sync::Arc;

use cordium_proto::v1::{PhaseEvent, WatchWorkspacesRequest, WorkspaceEvent};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    core::Core,
    error::ApiError,
    names::{self, Target},
    store::{
        journal::{self, Filter, Page},
        records,
        workspaces::{self, Workspace},
    },
};

const PAGE: usize = 128;
/// Events that wait for one reader in memory.
const WAITING: usize = 16;

pub fn watch(
    core: &Arc<Core>,
    request: WatchWorkspacesRequest,
) -> Result<ReceiverStream<Result<WorkspaceEvent, Status>>, ApiError> {
    let filter = filter(core, &request)?;
    let (sender, receiver) = mpsc::channel(WAITING);
    let watcher = Watcher { core: core.clone(), filter, sender };
    core.tasks.spawn(async move {
        let shutdown = watcher.core.shutdown.clone();
        let sender = watcher.sender.clone();
        // At shutdown the stream just ends.
        let ended = tokio::select! {
            ended = watcher.run(request.after_revision) => ended,
            () = shutdown.cancelled() => Ok(()),
        };
        if let Err(Ended::Failed(error)) = ended {
            // When nobody listens any more there is nobody to tell.
            let _ = sender.send(Err(error.into())).await;
        }
    });
    Ok(ReceiverStream::new(receiver))
}

fn filter(core: &Core, request: &WatchWorkspacesRequest) -> Result<Filter, ApiError> {
    if request.r#ref.is_empty() {
        if !request.space.is_empty() {
            core.store.lookup(|conn| records::space(conn, &request.space))?;
        }
        return Ok(Filter { space: request.space.clone(), ..Default::default() });
    }
    let target = names::parse_ref(&request.r#ref, &request.space)?;
    let uid = match core.store.lookup(|conn| workspaces::get(conn, &target)) {
        Ok(ws) => ws.record.uid,
        // Whoever resumes may learn that it has been deleted meanwhile.
        Err(ApiError::NotFound(_)) if request.after_revision > 0 && matches!(target, Target::Uid(_)) => {
            request.r#ref.clone()
        }
        Err(error) => return Err(error),
    };
    Ok(Filter { uid, ..Default::default() })
}

enum Ended {
    ReaderGone,
    Failed(ApiError),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

struct Watcher {
    core: Arc<Core>,
    filter: Filter,
    sender: mpsc::Sender<Result<WorkspaceEvent, Status>>,
}

impl Watcher {
    async fn run(&self, after: u64) -> Result<(), Ended> {
        let mut told = self.core.store.revisions();
        let mut cursor = if after == 0 { self.snapshot().await? } else { after };
        loop {
            told.mark_unchanged();
            let filter = self.filter.clone();
            match self.core.store.read(move |conn| journal::page(conn, cursor, &filter, PAGE)).await? {
                Page::Gone => cursor = self.snapshot().await?,
                Page::Events { events, upto } => {
                    let full = events.len() == PAGE;
                    for event in events {
                        let last = event.deleted && !self.filter.uid.is_empty();
                        self.send(event).await?;
                        if last {
                            return Ok(());
                        }
                    }
                    cursor = upto;
                    if !full {
                        tokio::select! {
                            changed = told.changed() => changed.map_err(|_| Ended::ReaderGone)?,
                            () = self.sender.closed() => return Err(Ended::ReaderGone),
                        }
                    }
                }
            }
        }
    }

    /// Sends every workspace as it is, and returns the revision that this was.
    async fn snapshot(&self) -> Result<u64, Ended> {
        let upto = self.core.store.read(|conn| Ok(journal::newest(conn)?)).await?;
        let mut after = 0;
        loop {
            let filter = self.filter.clone();
            let page = self
                .core
                .store
                .read(move |conn| workspaces::by_revision(conn, (after, upto), &filter, PAGE))
                .await?;
            let full = page.len() == PAGE;
            for ws in page {
                after = ws.revision;
                let mut event = snapshot_of(&ws);
                if let Some(resource) = &mut event.workspace {
                    self.core.decorate(resource);
                }
                self.send(event).await?;
            }
            if !full {
                return Ok(upto);
            }
        }
    }

    async fn send(&self, event: WorkspaceEvent) -> Result<(), Ended> {
        self.sender.send(Ok(event)).await.map_err(|_| Ended::ReaderGone)
    }
}

fn snapshot_of(ws: &Workspace) -> WorkspaceEvent {
    let status = &ws.status;
    let phase = PhaseEvent {
        node: status.node.clone(),
        workspace_uid: ws.record.uid.clone(),
        workspace_name: ws.record.name.clone(),
        run_id: ws.run_id().to_owned(),
        state: status.state,
        last_state: status.last_state,
        at: status.current_state_set_at,
        failure: status.failure.clone(),
        stopping_reason: status.stopping_reason,
        warnings: status.warnings.clone(),
        snapshot: true,
        limit: status.limit,
        has_storage: !status.node.is_empty(),
        ..Default::default()
    };
    WorkspaceEvent {
        revision: ws.revision,
        phase: Some(phase),
        workspace: Some(ws.to_resource()),
        deleted: false,
    }
}
