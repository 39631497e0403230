//! Subordinate ids: what a user has, and a free range for one that has too few.

use std::{fs, path::Path};

use super::{check::Check, users::User};

/// One sandbox maps its ids 1…65536.
pub const NEEDED: u64 = 65_536;
/// Room for ranges of their own for many workspaces.
pub const WANTED: u64 = 64 * 65_536;
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
            let start = fields.next()?.parse().ok()?;
            let count = fields.next()?.parse().ok()?;
            Some(Range { owner, start, count })
        })
        .collect()
}

/// The largest range of the user, by name or by number.
pub fn largest<'a>(ranges: &'a [Range], user: &User) -> Option<&'a Range> {
    let uid = user.uid.to_string();
    ranges.iter().filter(|r| r.owner == user.name || r.owner == uid).max_by_key(|r| r.count)
}

/// A range that overlaps none of the others in any of the files, as large as there is room for.
pub fn free(all: &[Range]) -> Option<(u64, u64)> {
    let mut taken: Vec<(u64, u64)> = all.iter().map(|r| (r.start, r.start.saturating_add(r.count))).collect();
    taken.sort_unstable();
    for count in [WANTED, 2 * NEEDED] {
        let mut start = FIRST;
        for (from, to) in &taken {
            if *from < start + count && *to > start {
                start = *to;
            }
        }
        if start + count <= END {
            return Some((start, count));
        }
    }
    None
}

pub fn check(name: &'static str, path: &Path, user: &User) -> Check {
    let ranges = read(path);
    let fix = format!("sudo cordium setup --user {}", user.name);
    match largest(&ranges, user) {
        Some(r) if r.count >= NEEDED => {
            Check::ok(name, format!("{} from {} for {}", r.count, r.start, user.name))
        }
        Some(r) => Check::fail(
            name,
            format!("only {} for {}; {NEEDED} are needed in one range", r.count, user.name),
            fix,
        ),
        None => Check::fail(name, format!("none for {} in {}", user.name, path.display()), fix),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn range(start: u64, count: u64) -> Range {
        Range { owner: "x".into(), start, count }
    }

    #[test]
    fn lines_of_subuid() {
        let ranges = parse("# c\nann:100000:65536\n1000:200000:10\nbroken:1\n\n");
        assert_eq!(ranges.len(), 2);
        let ann = User { name: "ann".into(), uid: 1000, gid: 1000 };
        assert_eq!(largest(&ranges, &ann).unwrap().start, 100_000);
        let bob = User { name: "bob".into(), uid: 1001, gid: 1001 };
        assert!(largest(&ranges, &bob).is_none());
    }

    #[test]
    fn a_free_range_overlaps_nothing() {
        assert_eq!(free(&[]), Some((FIRST, WANTED)));
        assert_eq!(free(&[range(100_000, 65_536)]), Some((165_536, WANTED)));
        // A gap that is too small is passed over.
        assert_eq!(free(&[range(100_000, 10), range(200_000, 65_536)]), Some((265_536, WANTED)));
        assert_eq!(free(&[range(50, 10)]), Some((FIRST, WANTED)));
    }

    #[test]
    fn little_room_gives_less_and_none_gives_none() {
        let nearly_all = range(FIRST, END - FIRST - 3 * NEEDED);
        assert_eq!(free(&[nearly_all]), Some((END - 3 * NEEDED, 2 * NEEDED)));
        assert_eq!(free(&[range(FIRST, END)]), None);
    }
}
