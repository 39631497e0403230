//! What this machine gives the supervisor's user: ids and cgroups. Looked at once, when the supervisor starts.

use crate::{
    IdMap, IdMapError,
    cgroup::{self, CgroupPlan, Layout, ProbeError},
};

pub(crate) const NO_STORAGE_LIMITS: &str = "storage limits are not enforced on this node";

/// The node as the runtime may use it.
#[derive(Debug, Clone)]
pub struct Node {
    ids: IdMap,
    cgroups: Layout,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Ids(#[from] IdMapError),
    #[error(transparent)]
    Cgroups(#[from] ProbeError),
}

impl Node {
    pub fn probe() -> Result<Self, NodeError> {
        Ok(Self { ids: IdMap::for_current_user()?, cgroups: cgroup::probe()? })
    }

    pub fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// The cgroups of workspace `id`; `None` when no subtree was delegated to us.
    pub fn cgroup_plan(&self, id: &str) -> Option<CgroupPlan> {
        (!self.cgroups.hierarchies.is_empty()).then(|| CgroupPlan {
            id: id.to_owned(),
            hierarchies: self.cgroups.hierarchies.clone(),
            unified_mount: self.cgroups.unified_mount.clone(),
        })
    }

    /// What this node cannot enforce, in words.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for controller in ["cpu", "memory", "pids"] {
            let has = |h: &cgroup::Hierarchy| h.controllers().iter().any(|name| name == controller);
            if !self.cgroups.hierarchies.iter().any(has) {
                warnings.push(format!(
                    "{controller} limits are not enforced: no delegated {controller} cgroup; as root run: cordium setup"
                ));
            }
        }
        warnings.push("all workspaces share one range of subordinate ids".to_owned());
        warnings.push(NO_STORAGE_LIMITS.to_owned());
        warnings
    }
}
