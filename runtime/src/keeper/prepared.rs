//! What is the same for every workspace, made before it is known which one it will be.
//!
//! Nothing here knows a plan: a keeper that is made ahead carries nothing from one workspace to another, because it serves
//! one and has not seen any before.

use std::os::fd::AsFd;

use super::{
    Clock, KeeperError, message,
    namespaces::{self, Inner},
    outer::root_of_inner,
    protocol::Connection,
};
use crate::{
    cgroup::{CgroupPlan, Stay},
    gateway::{self, Listeners, Pending},
};

/// A keeper that is root of O and has a gateway, but no root file system yet.
pub(super) struct Prepared {
    /// In the cgroups in which the container is to be born.
    pub(super) stay: Option<Stay>,
    pub(super) sandbox: Inner,
    /// The gateway's rules, in force or on their way.
    pub(super) rules: Pending,
    pub(super) listeners: Listeners,
    pub(super) warnings: Vec<String>,
}

impl Prepared {
    pub(super) fn make(
        supervisor: &mut Connection,
        cgroup: Option<&CgroupPlan>,
        clock: &mut Clock,
    ) -> Result<Self, KeeperError> {
        let stay = match cgroup {
            Some(cgroup) => {
                cgroup.create()?;
                Some(Stay::begin(cgroup)?)
            }
            None => None,
        };
        clock.mark("cgroups");
        match Self::within(supervisor, cgroup, clock) {
            Ok((sandbox, rules, listeners, warnings)) => {
                Ok(Self { stay, sandbox, rules, listeners, warnings })
            }
            Err(error) => {
                if let Some(stay) = stay {
                    stay.undo();
                }
                Err(error)
            }
        }
    }

    fn within(
        supervisor: &mut Connection,
        cgroup: Option<&CgroupPlan>,
        clock: &mut Clock,
    ) -> Result<(Inner, Pending, Listeners, Vec<String>), KeeperError> {
        namespaces::make_outer(supervisor)?;
        let mut warnings = Vec::new();
        if let Some(Err(error)) = cgroup.map(|cgroup| cgroup.delegate(root_of_inner())) {
            warnings.push(format!("nested containers have no cgroups of their own: {}", message(&error)));
        }
        clock.mark("outer namespaces");
        let rules = gateway::load_rules()?;
        let sandbox = namespaces::make_inner()?;
        clock.mark("inner namespaces");
        gateway::link(sandbox.network.as_fd())?;
        let listeners = gateway::listen()?;
        clock.mark("gateway");
        Ok((sandbox, rules, listeners, warnings))
    }

    /// Nobody needs it: leaves no cgroup behind. Everything else goes with the process.
    pub(super) fn undo(self) {
        drop(self.rules);
        if let Some(stay) = self.stay {
            stay.undo();
        }
    }
}
