//! What one sandbox may take of the kernel objects that are counted for each user, by a user namespace's own copy of
//! the resource limits.
//!
//! The kernel adds them up on every level to the supervisor's user, and compares each level with the limits that the
//! creator of the namespace below it had. A sandbox whose namespace was made with the node's own limits could therefore take
//! all of the node's; one that was made with a part of them leaves the rest to its neighbours.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Each limit and the part of the node's that one sandbox gets.
const SHARES: [(Resource, u64); 4] = [
    (Resource::RLIMIT_SIGPENDING, 4),
    (Resource::RLIMIT_MSGQUEUE, 2),
    (Resource::RLIMIT_NPROC, 2),
    (Resource::RLIMIT_MEMLOCK, 2),
];

/// Lowers the calling process's limits to a sandbox's shares: the user namespace that it makes next has them for good.
pub(super) fn lower_to_shares() -> nix::Result<()> {
    for (resource, share) in SHARES {
        let (soft, hard) = getrlimit(resource)?;
        let (soft, hard) = lowered(soft, hard, share);
        setrlimit(resource, soft, hard)?;
    }
    Ok(())
}

/// A node without a limit has nothing to divide.
fn lowered(soft: u64, hard: u64, share: u64) -> (u64, u64) {
    let part = |limit: u64| if limit == RLIM_INFINITY { limit } else { (limit / share).max(1) };
    (part(soft), hard.min(part(hard)).max(part(soft)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_nothing_and_no_limit_stays_none() {
        assert_eq!(lowered(100, 200, 4), (25, 50));
        assert_eq!(lowered(1, 1, 4), (1, 1));
        assert_eq!(lowered(RLIM_INFINITY, RLIM_INFINITY, 4), (RLIM_INFINITY, RLIM_INFINITY));
        assert_eq!(lowered(100, RLIM_INFINITY, 2), (50, RLIM_INFINITY));
    }
}
