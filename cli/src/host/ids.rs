//! Subordinate ids: what a user has, and a line for one that has too few.

use std::{fs, path::Path};

use super::{check::Check, users::User};

/// One sandbox maps its ids 1…65536. What a line has beyond whole ranges of so many is not used.
pub const NEEDED: u64 = 65_536;
/// So many workspaces run in ranges of their own; more share.
pub const WANTED: usize = 64;
/// A supervisor uses no more.
const MOST: usize = 256;
const FIRST: u64 = 100_000;
/// The kernel keeps the last id for "none".
const END: u64 = u32::MAX as u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub owner: String,
    pub start: u64,
    pub count: u64,
}

pub fn read(path: &Path) -> Vec<Range> {
    parse(&fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Range> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let owner = fields.next().filter(|o| !o.is_empty() && !o.starts_with('#'))?.to_owned();
            let start = fields.next()?.parse::<u32>().ok()?.into();
            let count = fields.next()?.parse::<u32>().ok()?.into();
            Some(Range { owner, start, count })
        })
        .collect()
}

/// The first ids of the ranges of [`NEEDED`] that all lines of the user together hold, by name or by number.
fn whole(lines: &[Range], user: &User) -> Vec<u64> {
    let uid = user.uid.to_string();
    let mut starts: Vec<u64> = Vec::new();
    for line in lines.iter().filter(|r| r.owner == user.name || r.owner == uid) {
        let pieces = (0..line.count / NEEDED).map(|n| line.start + n * NEEDED);
        for start in pieces.take(MOST).take_while(|start| start + NEEDED <= END) {
            if starts.iter().all(|other| other.abs_diff(start) >= NEEDED) {
                starts.push(start);
            }
        }
    }
    starts.truncate(MOST);
    starts
}

/// What a file has for a user, and what is to be added to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ranges of [`NEEDED`].
    pub has: usize,
    /// Start and count of one more line.
    pub add: Option<(u64, u64)>,
}

/// `lines` are those of the file, `others` those of the other file that a new line must keep clear of as well.
pub fn plan(lines: &[Range], others: &[Range], user: &User) -> Plan {
    let has = whole(lines, user).len();
    let lacking = WANTED.saturating_sub(has) as u64;
    let taken = lines.iter().chain(others);
    Plan { has, add: (lacking > 0).then(|| free(taken, lacking)).flatten() }
}

/// The first gap with room for so many ranges, else the one with room for the most.
fn free<'a>(taken: impl Iterator<Item = &'a Range>, wanted: u64) -> Option<(u64, u64)> {
    let mut taken: Vec<(u64, u64)> = taken.map(|r| (r.start, r.start + r.count)).collect();
    taken.sort_unstable();
    let (mut start, mut best) = (FIRST, (FIRST, 0));
    for (from, to) in taken.into_iter().chain([(END, END)]) {
        let room = (from.saturating_sub(start) / NEEDED).min(wanted);
        if room > best.1 {
            best = (start, room);
        }
        start = start.max(to);
    }
    (best.1 > 0).then_some((best.0, best.1 * NEEDED))
}

pub fn check(name: &'static str, path: &Path, user: &User) -> Check {
    judge(name, path, &read(path), user)
}

fn judge(name: &'static str, path: &Path, lines: &[Range], user: &User) -> Check {
    let starts = whole(lines, user);
    let fix = format!("sudo cordium setup --user {}", user.name);
    match starts.as_slice() {
        [] => Check::fail(
            name,
            format!("no range of {NEEDED} ids for {} in {}", user.name, path.display()),
            fix,
        ),
        [start] => Check::warn(
            name,
            format!("1 range of {NEEDED} ids from {start} for {}: all workspaces share it", user.name),
            fix,
        ),
        [start, ..] => {
            Check::ok(name, format!("{} ranges of {NEEDED} ids from {start} for {}", starts.len(), user.name))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::host::check::Level;

    const ALL: u64 = WANTED as u64 * NEEDED;

    fn ann() -> User {
        User { name: "ann".into(), uid: 1000, gid: 1000 }
    }

    fn range(start: u64, count: u64) -> Range {
        Range { owner: "x".into(), start, count }
    }

    #[test]
    fn lines_of_subuid() {
        let lines = parse("# c\nann:100000:65536\n1000:200000:140000\nbroken:1\n\nbig:1:4294967296\n");
        assert_eq!(lines.len(), 2);
        assert_eq!(whole(&lines, &ann()), [100_000, 200_000, 265_536]);
        let bob = User { name: "bob".into(), uid: 1001, gid: 1001 };
        assert!(whole(&lines, &bob).is_empty());
    }

    #[test]
    fn ids_count_once_and_none_beyond_the_last() {
        let lines = parse("ann:100000:65536\nann:100000:65536\nann:150000:65536\nann:4294901760:65535\n");
        assert_eq!(whole(&lines, &ann()), [100_000]);
        assert!(whole(&parse("ann:4294901760:65536\n"), &ann()).is_empty());
        assert_eq!(whole(&parse("ann:0:4294967295\nann:1:4294967294\n"), &ann()).len(), MOST);
    }

    #[test]
    fn a_line_brings_the_whole_to_what_is_wanted() {
        let plan = |text: &str| plan(&parse(text), &[], &ann());
        assert_eq!(plan(""), Plan { has: 0, add: Some((FIRST, ALL)) });
        // What Debian's `useradd` gives.
        assert_eq!(plan("ann:100000:65536\n"), Plan { has: 1, add: Some((165_536, ALL - NEEDED)) });
        assert_eq!(plan("ann:100000:70000\nbob:170000:65536\n1000:300000:131073\n").has, 3);
        assert_eq!(plan("ann:100000:4194304\n"), Plan { has: WANTED, add: None });
        assert_eq!(plan("ann:100000:2097152\nann:9000000:2097152\n"), Plan { has: WANTED, add: None });
        assert_eq!(plan("ann:100000:9000000\n"), Plan { has: 137, add: None });
    }

    #[test]
    fn a_line_keeps_clear_of_both_files() {
        let other = [range(100_000, NEEDED), range(170_000, NEEDED)];
        assert_eq!(plan(&[], &other, &ann()).add, Some((235_536, ALL)));
        assert_eq!(plan(&[range(300_000, 5)], &other, &ann()).add, Some((300_005, ALL)));
        assert_eq!(plan(&[range(50, 10)], &[], &ann()).add, Some((FIRST, ALL)));
        // One range within another.
        assert_eq!(
            plan(&[range(100_000, 500_000), range(200_000, 5)], &[], &ann()).add,
            Some((600_000, ALL))
        );
    }

    #[test]
    fn little_room_gives_less_and_none_gives_none() {
        let add = |text: &str| plan(&parse(text), &[], &ann()).add;
        let nearly_all = format!("x:{FIRST}:{}\n", END - FIRST - 3 * NEEDED - 5);
        assert_eq!(add(&nearly_all), Some((END - 3 * NEEDED - 5, 3 * NEEDED)));
        // The larger of two gaps.
        let gaps = format!("x:{}:{}\nx:200000:131100\n", 331_100 + 2 * NEEDED, END - 331_100 - 2 * NEEDED);
        assert_eq!(add(&gaps), Some((331_100, 2 * NEEDED)));
        assert_eq!(add(&format!("x:{FIRST}:{}\n", END - FIRST - NEEDED + 1)), None);
        assert_eq!(add("x:0:4294967295\n"), None);
    }

    #[test]
    fn one_range_works_with_a_warning() {
        let level = |text: &str| {
            let check = judge("ids", "/etc/subuid".as_ref(), &parse(text), &ann());
            (check.level, check.found, check.fix)
        };
        let fix = Some("sudo cordium setup --user ann".to_owned());
        assert_eq!(
            level("ann:100000:4194304\n"),
            (Level::Ok, "64 ranges of 65536 ids from 100000 for ann".into(), None)
        );
        assert_eq!(
            level("ann:100000:65536\n"),
            (
                Level::Warn,
                "1 range of 65536 ids from 100000 for ann: all workspaces share it".into(),
                fix.clone()
            )
        );
        assert_eq!(
            level("ann:100000:65535\n"),
            (Level::Fail, "no range of 65536 ids for ann in /etc/subuid".into(), fix)
        );
    }
}
