//! A keeper that was killed leaves cgroups that its sandbox made: they belong to subordinate ids, so the supervisor's user
//! cannot remove them. A keeper that makes no sandbox does, as root of those ids.

use std::time::Duration;

use super::{
    KeeperError, namespaces,
    protocol::{Connection, FromKeeper},
};
use crate::cgroup::CgroupPlan;

/// The last process of a killed sandbox may take a moment to go.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn sweep(supervisor: &mut Connection, cgroup: &CgroupPlan) -> Result<(), KeeperError> {
    namespaces::make_outer(supervisor)?;
    cgroup.remove_delegated(TIMEOUT)?;
    Ok(supervisor.send(&FromKeeper::Exited { code: Some(0), signal: None, oom_kills: 0 })?)
}
