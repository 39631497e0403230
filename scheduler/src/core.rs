//! What all requests share: the store, the key, the nodes, and one lock per workspace.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use cordium_proto::v1::{GetUsageRequest, Resource, WorkspaceState, WorkspaceStatus};
use rusqlite::Connection;
use tokio::sync::OwnedMutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    activity::Activity,
    audit::Audit,
    config::Config,
    crypt::Cipher,
    error::ApiError,
    nodes::NodeHandle,
    placement::{Candidate, add},
    status::{is_active, warn},
    store::{Store, workspaces},
};

/// How long a node may take to say what its workspaces use.
const USAGE: Duration = Duration::from_secs(1);

pub struct Core {
    pub store: Store,
    pub audit: Arc<Audit>,
    pub cipher: Cipher,
    pub config: Config,
    pub nodes: BTreeMap<String, Arc<NodeHandle>>,
    pub locks: Locks,
    pub activity: Activity,
    pub shutdown: CancellationToken,
    pub tasks: TaskTracker,
}

impl Core {
    pub fn node(&self, name: &str) -> Result<&Arc<NodeHandle>, ApiError> {
        self.nodes.get(name).ok_or_else(|| ApiError::NodeGone {
            node: name.to_owned(),
            message: "it is not among this scheduler's nodes".into(),
        })
    }

    /// The nodes as placement sees them: our own promises as the store has them now, plus what the node had
    /// promised to others when it was last asked.
    pub fn candidates(&self, conn: &Connection) -> Result<Vec<Candidate>, ApiError> {
        let candidate = |(name, node): (&String, &Arc<NodeHandle>)| {
            let view = node.view();
            Ok(Candidate {
                name: name.clone(),
                unreachable: (!view.reachable).then(|| view.error.clone()),
                capacity: view.info.capacity.unwrap_or_default(),
                promised: add(&workspaces::promised(conn, name)?, &view.foreign),
            })
        };
        self.nodes.iter().map(candidate).collect()
    }

    /// Runs to its end even when the caller goes away: a request that is half done in the store must be finished.
    pub async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        match self.tasks.spawn(work).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(ApiError::ShuttingDown),
        }
    }

    /// Adds what running workspaces use, as far as their nodes say so in time. Never stored.
    pub async fn add_usage(&self, items: &mut [Resource]) {
        let mut by_node: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in items.iter() {
            let (Some(status), Some(metadata)) = (&resource.status, &resource.metadata) else { continue };
            if matches!(status.state(), WorkspaceState::Preparing | WorkspaceState::Running) {
                by_node.entry(status.node.clone()).or_default().push(metadata.uid.clone());
            }
        }
        let asked = by_node.into_iter().filter_map(|(name, workspace_uids)| {
            let node = self.nodes.get(&name).filter(|node| node.view().reachable)?;
            let mut client = node.client();
            Some(async move {
                let asked = client.get_usage(GetUsageRequest { workspace_uids });
                tokio::time::timeout(USAGE, asked).await.ok()?.ok()
            })
        });
        let mut known = HashMap::new();
        for answer in futures::future::join_all(asked).await.into_iter().flatten() {
            known.extend(answer.into_inner().items);
        }
        for resource in items {
            let usage = resource.metadata.as_ref().and_then(|metadata| known.remove(&metadata.uid));
            if let Some(status) = &mut resource.status {
                status.usage = usage;
            }
        }
    }

    /// As [`Self::decorate_status`], for an answer.
    pub fn decorate(&self, resource: &mut Resource) {
        if let Some(status) = &mut resource.status {
            self.decorate_status(status);
        }
    }

    /// Adds what is known now and not stored: that a running workspace's node is not heard.
    pub fn decorate_status(&self, status: &mut WorkspaceStatus) {
        if !is_active(status) || status.node.is_empty() {
            return;
        }
        match self.nodes.get(&status.node).map(|n| n.view()) {
            Some(view) if view.reachable => {}
            Some(view) => {
                let text = format!(
                    "node {} does not answer, this is the last known state: {}",
                    status.node, view.error
                );
                warn(status, &text);
            }
            None => {
                let text = format!("node {} is not among this scheduler's nodes", status.node);
                warn(status, &text);
            }
        }
    }
}

/// One lock per workspace, so that a start and a stop of it do not cross.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Locks {
    pub async fn lock(&self, uid: &str) -> OwnedMutexGuard<()> {
        self.of(uid).lock_owned().await
    }

    /// Nothing when a request for the workspace is under way.
    pub fn try_lock(&self, uid: &str) -> Option<OwnedMutexGuard<()>> {
        self.of(uid).try_lock_owned().ok()
    }

    fn of(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = map.get(uid).and_then(Weak::upgrade) {
            return lock;
        }
        map.retain(|_, held| held.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        map.insert(uid.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
