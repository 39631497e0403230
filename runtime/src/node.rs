//! What this machine gives the supervisor's user: ids and cgroups. Looked at once, when the supervisor starts.

use crate::{
    IdMap, IdMapError, Ranges,
    cgroup::{self, CgroupPlan, Layout, ProbeError},
};

/// Said where the file system cannot hold a workspace to its limit.
pub(crate) const STORAGE_IS_WATCHED: &str =
    "storage limits are watched, not enforced by the file system: a run that outgrows its limit is ended";

/// The node as the runtime may use it.
#[derive(Debug, Clone)]
pub struct Node {
    ranges: Ranges,
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
        let mut cgroups = cgroup::probe()?;
        cgroup::settle(&mut cgroups);
        let mut ids = IdMap::for_current_user()?.into_iter();
        let home = ids.next().ok_or(IdMapError::Unpaired)?;
        Ok(Self { ranges: Ranges::new(home, ids), cgroups })
    }

    /// Uses no more ranges of subordinate ids than this, and at least one.
    pub fn with_ranges(mut self, most: usize) -> Self {
        let others = self.ranges.all().iter().skip(1).take(most.saturating_sub(1)).copied();
        self.ranges = Ranges::new(*self.ranges.home(), others);
        self
    }

    /// Who runs in which range of subordinate ids.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// The subtrees that were delegated to us.
    pub(crate) fn hierarchies(&self) -> &[cgroup::Hierarchy] {
        &self.cgroups.hierarchies
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
        for (controller, instead) in [
            ("cpu", "are not enforced"),
            ("memory", "are not enforced"),
            ("pids", "are enforced by RLIMIT_NPROC only"),
        ] {
            let has = |h: &cgroup::Hierarchy| h.controllers().iter().any(|name| name == controller);
            if !self.cgroups.hierarchies.iter().any(has) {
                warnings.push(format!(
                    "{controller} limits {instead}: no delegated {controller} cgroup; as root run: cordium setup"
                ));
            }
        }
        if self.ranges.all().len() == 1 {
            warnings.push(
                "all workspaces share one range of subordinate ids: no other is given to this user, or in its \
                 configuration; as root run: cordium setup"
                    .to_owned(),
            );
        }
        warnings.push(STORAGE_IS_WATCHED.to_owned());
        warnings
    }
}
