//! What the daemon gives up before it has a second thread.
//!
//! Less than its helpers do: it starts `newuidmap` and `newgidmap`, which gain a capability by their file, and keepers, in
//! whose sandboxes `sudo` must work. `no_new_privs` would reach all of them, and without it an ordinary user may load no
//! filter (docs/decisions/0033-who-maps-ids.md). What it needs no privilege for, it does without.

use rustix::{
    io::Errno,
    process::{DumpableBehavior, set_dumpable_behavior},
    thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities},
};

/// What the two helpers gain, and nothing else that is started may.
const HELPERS: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID);

/// The daemon cannot give up what it must not keep.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Memory with secrets in it could be read by every process of the same user.
    #[error("making the supervisor undumpable: {0}")]
    Undumpable(Errno),
    /// Somebody gave it some, for example by `AmbientCapabilities=` or as root.
    #[error("dropping the supervisor's capabilities: {0}")]
    Capabilities(Errno),
}

/// For this thread and all that it will start.
pub fn confine() -> Result<(), ConfineError> {
    // No core file either, and no debugger of another process of the same user.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(ConfineError::Undumpable)?;
    drop_capabilities().map_err(ConfineError::Capabilities)
}

fn drop_capabilities() -> Result<(), Errno> {
    let held = capabilities(None)?;
    // An ordinary user may not touch the bounding set, and a set-user-id program gains from it what it always does.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(HELPERS) {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // Newer than the running kernel.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// In a thread of its own, which is all that capabilities are of.
    #[test]
    fn nothing_is_kept_and_only_the_helpers_gain() {
        std::thread::spawn(|| {
            let could = capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP);
            drop_capabilities().unwrap();
            let held = capabilities(None).unwrap();
            assert!(held.effective.is_empty() && held.permitted.is_empty() && held.inheritable.is_empty());
            let bounded = |capability| rustix::thread::capability_is_in_bounding_set(capability).unwrap();
            assert!(!could || !bounded(CapabilitySet::SYS_ADMIN));
            assert!(!could || bounded(CapabilitySet::SETUID));
        })
        .join()
        .unwrap();
    }
}
