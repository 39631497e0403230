//! Subordinate ids: which host ids the two user namespaces may use.
//!
//! ```text
//!  host            O (keeper)        I (sandbox)
//!  own uid    ◀──  0
//!  subuid 0   ◀──  1            ◀──  0   root of the sandbox
//!  subuid n-1 ◀──  n            ◀──  n-1
//! ```
//! So the sandbox's root is not the user that owns the supervisor's files.

use std::{fs, io, path::PathBuf};

use serde::{Deserialize, Serialize};

/// How many ids a sandbox has: 0…65535, what images and nested containers expect.
pub const SANDBOX_IDS: u32 = 65_536;

/// A run of subordinate ids on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub host_start: u32,
    pub count: u32,
}

/// The subordinate uids and gids of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub uid: IdRange,
    pub gid: IdRange,
}

#[derive(Debug, thiserror::Error)]
pub enum IdMapError {
    #[error("reading {path}: {source}", path = path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} gives user {user} no range of {SANDBOX_IDS} or more ids; as root run: cordium setup --user {user}",
        path = path.display()
    )]
    NoRange { path: PathBuf, user: String },
    #[error("the current user (uid {0}) has no name in the user database")]
    NoUser(u32),
}

impl IdMap {
    /// The first large enough range that `/etc/subuid` and `/etc/subgid` give the current user.
    pub fn for_current_user() -> Result<Self, IdMapError> {
        let uid = nix::unistd::getuid();
        let user = user_name(uid.as_raw())?;
        Ok(Self {
            uid: find("/etc/subuid".into(), &user, uid.as_raw())?,
            gid: find("/etc/subgid".into(), &user, uid.as_raw())?,
        })
    }
}

/// Looks the name up in `/etc/passwd`, else in `$USER`: a static binary has no name service switch.
fn user_name(uid: u32) -> Result<String, IdMapError> {
    let path = PathBuf::from("/etc/passwd");
    let passwd = fs::read_to_string(&path).map_err(|source| IdMapError::Read { path, source })?;
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse::<u32>().ok()? == uid).then(|| name.to_owned())
    });
    found.or_else(|| std::env::var("USER").ok()).ok_or(IdMapError::NoUser(uid))
}

fn find(path: PathBuf, user: &str, uid: u32) -> Result<IdRange, IdMapError> {
    let text = fs::read_to_string(&path).map_err(|source| IdMapError::Read { path: path.clone(), source })?;
    ranges(&text, user, uid)
        .find(|range| range.count >= SANDBOX_IDS)
        .ok_or_else(|| IdMapError::NoRange { path, user: user.to_owned() })
}

/// The ranges of one user in the text of `/etc/subuid` or `/etc/subgid`, in the file's order.
fn ranges<'a>(text: &'a str, user: &'a str, uid: u32) -> impl Iterator<Item = IdRange> + 'a {
    text.lines().filter_map(move |line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != user && owner.parse::<u32>().ok() != Some(uid) {
            return None;
        }
        let host_start = fields.next()?.parse().ok()?;
        let count = fields.next()?.parse().ok()?;
        Some(IdRange { host_start, count })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_by_name_and_by_number() {
        let text = "alice:100000:65536\n1000:300000:131072\nbob:1:2\nbroken\nalice:x:y\n";
        let all: Vec<_> = ranges(text, "alice", 1000).collect();
        assert_eq!(
            all,
            [IdRange { host_start: 100_000, count: 65_536 }, IdRange { host_start: 300_000, count: 131_072 }]
        );
        assert_eq!(ranges(text, "carol", 7).count(), 0);
    }

    #[test]
    fn a_small_range_is_refused_with_the_fix() {
        let dir = std::env::temp_dir().join(format!("cordium-subid-{}", std::process::id()));
        fs::write(&dir, "bob:1:2\n").unwrap();
        let error = find(dir.clone(), "bob", 1).unwrap_err().to_string();
        fs::remove_file(dir).unwrap();
        assert!(error.contains("cordium setup --user bob"), "{error}");
    }
}
