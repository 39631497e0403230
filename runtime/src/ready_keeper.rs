//! The supervisor's handle on a keeper that has made all that needs no plan and waits for one.

use std::{io, path::Path, process::Stdio, time::Duration};

use tokio::{process::Child, time::timeout};

use crate::{
    IdMap, Node, Sandbox, SandboxPlan, StartError,
    cgroup::{self, CgroupPlan},
    keeper::{FromKeeper, ToKeeper},
    sandbox::{Channel, ChannelError, START_TIMEOUT, Started, send, spawn_keeper},
    userns,
};

/// How long a keeper that is not needed may take to go by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// In the run directory: what the cgroup of the run is called, if not like the workspace.
const CGROUP_NOTE: &str = "cgroup";

/// See the module. Dropping it ends the keeper.
pub(crate) struct ReadyKeeper {
    keeper: Unfinished,
    channel: Channel,
    ids: IdMap,
    cgroup: Option<CgroupPlan>,
    leavings: Leavings,
}

impl ReadyKeeper {
    /// Starts one for `cgroup`, which is the caller's to clean.
    pub(crate) async fn make(ids: &IdMap, cgroup: Option<CgroupPlan>) -> Result<Self, StartError> {
        Self::spawn(ids, cgroup, Leavings(None)).await
    }

    /// Starts one with cgroups of its own, which go with it unless it becomes a sandbox.
    pub(crate) async fn ahead(node: &Node, ids: &IdMap, number: u64) -> Result<Self, StartError> {
        let cgroup = node.cgroup_plan(&cgroup::name_ahead(number));
        Self::spawn(ids, cgroup.clone(), Leavings(cgroup)).await
    }

    /// The ids that it can serve.
    pub(crate) fn ids(&self) -> &IdMap {
        &self.ids
    }

    async fn spawn(ids: &IdMap, cgroup: Option<CgroupPlan>, leavings: Leavings) -> Result<Self, StartError> {
        let (keeper, channel) = spawn_keeper(Stdio::inherit())?;
        let pid = keeper.id().ok_or_else(|| StartError::Spawn(io::ErrorKind::NotFound.into()))?;
        let mut ready = Self { keeper: Unfinished(Some(keeper)), channel, ids: *ids, cgroup, leavings };
        timeout(START_TIMEOUT, ready.prepare(pid, ids)).await.map_err(|_| StartError::Timeout)??;
        Ok(ready)
    }

    async fn prepare(&mut self, pid: u32, ids: &IdMap) -> Result<(), StartError> {
        let channel = &mut self.channel;
        send(&mut channel.writer, &ToKeeper::Prepare { cgroup: self.cgroup.clone() }).await?;
        loop {
            match channel.receive().await? {
                FromKeeper::NeedMaps => {
                    userns::map_child(pid, ids).await?;
                    send(&mut channel.writer, &ToKeeper::Mapped).await?;
                }
                FromKeeper::Ready => return Ok(()),
                FromKeeper::Failed { message } => return Err(StartError::Keeper { message }),
                _ => return Err(ChannelError::Unexpected.into()),
            }
        }
    }

    /// Whether its process is still there.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.keeper.0.as_mut().is_some_and(|keeper| matches!(keeper.try_wait(), Ok(None)))
    }

    /// Makes it the keeper of this workspace, in its own cgroups instead of the plan's.
    pub(crate) async fn start(self, mut plan: SandboxPlan) -> Result<Sandbox, StartError> {
        let Self { mut keeper, mut channel, cgroup, mut leavings, .. } = self;
        if let Some(cgroup) = cgroup.as_ref().filter(|cgroup| cgroup.id != plan.id) {
            note(&plan.run_dir, &cgroup.id)?;
        }
        plan.cgroup = cgroup.clone();
        let (id, run_dir) = (plan.id.clone(), plan.run_dir.clone());
        let talk = async {
            send(&mut channel.writer, &ToKeeper::Start(plan)).await?;
            match channel.receive().await? {
                FromKeeper::Running { warnings, steps, .. } => {
                    tracing::debug!(workspace = id, ?steps, "keeper steps in microseconds");
                    Ok(Started { warnings, steps })
                }
                FromKeeper::Failed { message } => Err(StartError::Keeper { message }),
                _ => Err(ChannelError::Unexpected.into()),
            }
        };
        let started = timeout(START_TIMEOUT, talk).await.map_err(|_| StartError::Timeout)??;
        let sandbox = Sandbox::watch(channel, &run_dir, cgroup, started);
        leavings.0 = None;
        // From here on the keeper lives by itself; it is only reaped when it ends while we are still its parent.
        if let Some(mut keeper) = keeper.0.take() {
            tokio::spawn(async move { keeper.wait().await });
        }
        Ok(sandbox)
    }

    /// Ends it and waits until nothing of it is left.
    pub(crate) async fn end(self) {
        let Self { mut keeper, channel, cgroup, mut leavings, .. } = self;
        // It goes by itself when nobody can ask for anything any more.
        drop(channel);
        if let Some(mut keeper) = keeper.0.take()
            && timeout(LEAVE_TIMEOUT, keeper.wait()).await.is_err()
        {
            // It may have ended just now.
            let _ = keeper.kill().await;
        }
        leavings.0 = None;
        if let Some(cgroup) = cgroup
            && let Err(error) = Sandbox::clean(cgroup).await
        {
            tracing::warn!(%error, "removing the cgroups of a keeper that was made ahead");
        }
    }
}

/// A keeper whose sandbox is not up yet; it ends with the start that wanted it. `kill_on_drop` would end it with the
/// supervisor, too.
struct Unfinished(Option<Child>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.0 {
            // An error means that it has ended by itself.
            let _ = keeper.start_kill();
        }
    }
}

/// The cgroups of a keeper that has not become a sandbox.
struct Leavings(Option<CgroupPlan>);

impl Drop for Leavings {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the next supervisor removes what is empty.
        if let (Some(cgroup), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                if let Err(error) = Sandbox::clean(cgroup).await {
                    tracing::warn!(%error, "removing the cgroups of a keeper that was given up");
                }
            });
        }
    }
}

/// For a supervisor that finds the run but no keeper any more.
fn note(run_dir: &Path, name: &str) -> Result<(), StartError> {
    let path = run_dir.join(CGROUP_NOTE);
    std::fs::write(&path, name).map_err(|source| StartError::Note { path, source })
}

/// What [`note`] has noted.
pub(crate) fn noted_cgroup(run_dir: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut name = String::new();
    std::fs::File::open(run_dir.join(CGROUP_NOTE)).ok()?.take(64).read_to_string(&mut name).ok()?;
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (!name.is_empty() && name.len() < 64 && is_plain).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_name_is_taken_for_a_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(noted_cgroup(dir.path()), None);
        for (name, found) in [("keeper-12-3", true), ("", false), ("../x", false), ("a/b", false)] {
            note(dir.path(), name).unwrap();
            assert_eq!(noted_cgroup(dir.path()), found.then(|| name.to_owned()));
        }
        note(dir.path(), &"x".repeat(100)).unwrap();
        assert_eq!(noted_cgroup(dir.path()), None);
    }
}
