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

/// More would only cost the image store more views of its layers.
pub const MAX_RANGES: usize = 256;

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
    #[error("neither /etc/subuid nor /etc/subgid gives a range")]
    Unpaired,
    #[error("the current user (uid {0}) has no name in the user database")]
    NoUser(u32),
}

impl IdMap {
    /// The ranges of [`SANDBOX_IDS`] that `/etc/subuid` and `/etc/subgid` give the current user: at least one, at most
    /// [`MAX_RANGES`].
    pub fn for_current_user() -> Result<Vec<Self>, IdMapError> {
        let uid = nix::unistd::getuid();
        let user = user_name(uid.as_raw())?;
        let uids = pieces("/etc/subuid".into(), &user, uid.as_raw())?;
        let gids = pieces("/etc/subgid".into(), &user, uid.as_raw())?;
        Ok(uids.into_iter().zip(gids).map(|(uid, gid)| Self { uid, gid }).take(MAX_RANGES).collect())
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

/// What the user has, in pieces of [`SANDBOX_IDS`]; what is left over of a line is not used. None overlaps another.
fn pieces(path: PathBuf, user: &str, uid: u32) -> Result<Vec<IdRange>, IdMapError> {
    let text = fs::read_to_string(&path).map_err(|source| IdMapError::Read { path: path.clone(), source })?;
    let mut pieces: Vec<IdRange> = Vec::new();
    for range in ranges(&text, user, uid) {
        let starts = (0..range.count / SANDBOX_IDS).map_while(|n| {
            n.checked_mul(SANDBOX_IDS).and_then(|offset| range.host_start.checked_add(offset))
        });
        for host_start in starts.take(MAX_RANGES) {
            let overlaps = |other: &IdRange| other.host_start.abs_diff(host_start) < SANDBOX_IDS;
            if !pieces.iter().any(overlaps) {
                pieces.push(IdRange { host_start, count: SANDBOX_IDS });
            }
        }
    }
    if pieces.is_empty() { Err(IdMapError::NoRange { path, user: user.to_owned() }) } else { Ok(pieces) }
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
        let error = pieces(dir.clone(), "bob", 1).unwrap_err().to_string();
        fs::remove_file(dir).unwrap();
        assert!(error.contains("cordium setup --user bob"), "{error}");
    }

    #[test]
    fn lines_are_cut_into_pieces_that_do_not_overlap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subuid");
        // A small rest, a line twice, one that overlaps, one at the end of all ids.
        let text = "ann:100000:65536\nann:200000:140000\nann:100000:65536\nann:300000:65536\nann:4294901760:65535\nann:5:9\n";
        fs::write(&path, text).unwrap();
        let starts: Vec<_> = pieces(path, "ann", 1).unwrap().iter().map(|piece| piece.host_start).collect();
        assert_eq!(starts, [100_000, 200_000, 265_536]);
    }
}
