//! What all requests share: the store, the key, the nodes, and one lock per workspace.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use cordium_proto::v1::Resource;
use rusqlite::Connection;
use tokio::sync::OwnedMutexGuard;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    crypt::Cipher,
    error::ApiError,
    nodes::NodeHandle,
    placement::{Candidate, add},
    status::{is_active, warn},
    store::{Store, workspaces},
};

pub struct Core {
    pub store: Store,
    pub cipher: Cipher,
    pub config: Config,
    pub nodes: BTreeMap<String, Arc<NodeHandle>>,
    pub locks: Locks,
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

    /// Adds what is known now and not stored: that a running workspace's node is not heard.
    pub fn decorate(&self, resource: &mut Resource) {
        let Some(status) = resource.status.as_mut().filter(|s| is_active(s) && !s.node.is_empty()) else {
            return;
        };
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
        let lock = {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match map.get(uid).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    map.retain(|_, held| held.strong_count() > 0);
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    map.insert(uid.to_owned(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}
