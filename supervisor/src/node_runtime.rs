//! The sandbox runtime of this machine: [`SandboxRuntime`] on top of `cordium-runtime`.

use std::{path::Path, path::PathBuf, sync::Arc, time::Duration};

use cordium_image::ImageStore;
use cordium_runtime::{
    AdoptError, IdMap, Node, Pool, Reported, Sandbox, SandboxPlan,
    cgroup::{CgroupPlan, Stats},
};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::watch;

use crate::runtime::{Ended, RuntimeFailure, SandboxHandle, SandboxRuntime, chain};

/// Makes sandboxes on this machine.
pub struct NodeRuntime {
    /// What the machine gives us.
    pub node: Node,
    /// Starts them, from keepers made ahead where it has one.
    pub pool: Pool,
    /// Its helper removes files of subordinate ids.
    pub images: ImageStore,
}

struct Running(Sandbox);

fn failed(error: &(dyn std::error::Error + 'static)) -> RuntimeFailure {
    RuntimeFailure(chain(error))
}

/// A range as the image store writes it.
pub fn image_ids(ids: &IdMap) -> cordium_image::IdMap {
    cordium_image::IdMap {
        uid_start: ids.uid.host_start,
        uid_count: ids.uid.count,
        gid_start: ids.gid.host_start,
        gid_count: ids.gid.count,
    }
}

impl SandboxRuntime for NodeRuntime {
    fn cgroup(&self, uid: &str) -> Option<CgroupPlan> {
        self.node.cgroup_plan(uid)
    }

    fn give_tree<'a>(&'a self, path: &'a Path, ids: &'a IdMap) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        async move { self.images.give_tree(path, &image_ids(ids)).await.map_err(|error| failed(&error)) }
            .boxed()
    }

    fn warnings(&self) -> Vec<String> {
        self.node.warnings()
    }

    fn remove_tree<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        async move {
            match std::fs::symlink_metadata(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                _ if remove_flat(path.to_owned()).await => Ok(()),
                _ => self.images.discard_tree(path).await.map_err(|error| failed(&error)),
            }
        }
        .boxed()
    }

    fn start<'a>(
        &'a self,
        plan: &'a SandboxPlan,
    ) -> BoxFuture<'a, Result<Arc<dyn SandboxHandle>, RuntimeFailure>> {
        async move {
            let started = self.pool.start(plan).await.map_err(|error| failed(&error));
            Ok(Arc::new(Running(started?)) as Arc<dyn SandboxHandle>)
        }
        .boxed()
    }

    fn adopt<'a>(
        &'a self,
        uid: &'a str,
        run_dir: &'a Path,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn SandboxHandle>>, RuntimeFailure>> {
        async move {
            let cgroup = self.pool.cgroup_of(run_dir).or_else(|| self.node.cgroup_plan(uid));
            match Sandbox::adopt(run_dir, uid, cgroup.clone()).await {
                Ok(sandbox) => Ok(Some(Arc::new(Running(sandbox)) as Arc<dyn SandboxHandle>)),
                Err(AdoptError::Connect { source, .. }) if is_gone(&source) => {
                    if let Some(cgroup) = cgroup {
                        Sandbox::clean(cgroup).await.map_err(|error| failed(&error))?;
                    }
                    Ok(None)
                }
                Err(error) => {
                    if let Some(cgroup) = cgroup.filter(|_| error.ends_the_keeper()) {
                        Sandbox::clean(cgroup).await.map_err(|error| failed(&error))?;
                    }
                    Err(failed(&error))
                }
            }
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, ()> {
        self.pool.end().boxed()
    }
}

impl SandboxHandle for Running {
    fn agent_socket(&self) -> PathBuf {
        self.0.agent_socket().to_owned()
    }

    fn warnings(&self) -> Vec<String> {
        self.0.warnings().to_vec()
    }

    fn stats(&self) -> Stats {
        self.0.stats()
    }

    fn reported(&self) -> watch::Receiver<Reported> {
        self.0.reported()
    }

    fn set_policy<'a>(
        &'a self,
        policy: &'a cordium_egress::Policy,
        renewal: Option<&'a cordium_broker::Renewal>,
    ) -> BoxFuture<'a, Result<(), RuntimeFailure>> {
        async move { self.0.set_policy(policy, renewal).await.map_err(|error| failed(&error)) }.boxed()
    }

    fn wait(&self) -> BoxFuture<'_, Ended> {
        let ended = |exit: cordium_runtime::SandboxExit| Ended {
            message: exit.message,
            out_of_memory: exit.oom,
            storage: exit.storage,
        };
        self.0.wait().map(ended).boxed()
    }

    fn kill(&self, timeout: Duration) -> BoxFuture<'_, Result<(), RuntimeFailure>> {
        async move { self.0.kill(timeout).await.map_err(|error| failed(&error)) }.boxed()
    }
}

/// Nobody listens on the socket any more.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

/// Removes a directory that holds no directory, as run directories do; says whether it is gone. What holds more goes to
/// the store's helper, which can remove files of subordinate ids.
async fn remove_flat(path: PathBuf) -> bool {
    let removed = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(&path)?.collect::<Result<Vec<_>, _>>()?;
        for entry in &entries {
            if entry.file_type()?.is_dir() {
                return Err(std::io::ErrorKind::DirectoryNotEmpty.into());
            }
        }
        for entry in &entries {
            std::fs::remove_file(entry.path())?;
        }
        std::fs::remove_dir(&path)
    });
    matches!(removed.await, Ok(Ok(())))
}
