//! Which ids the confined process has: 0 is this process's own id, 1 and on are subordinate ids. Pure.

use super::give::{Place, Shift};
use crate::config::IdMap;

/// Ids of one image: what a view shifts by, and what a range holds.
pub(crate) const RANGE: u32 = 65_536;

/// `count` ids from `inside` on are the host's from `outside` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The id maps of one helper, beyond 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extents {
    pub uids: Vec<Extent>,
    pub gids: Vec<Extent>,
}

impl Extents {
    /// 1 and on are `ids`.
    pub(crate) fn of(ids: &IdMap) -> Self {
        let whole = |outside, count| vec![Extent { inside: 1, outside, count }];
        Self { uids: whole(ids.uid_start, ids.uid_count), gids: whole(ids.gid_start, ids.gid_count) }
    }

    /// 1 and on are `home`, [`RANGE`] ids later `range`.
    pub(crate) fn shift(home: &IdMap, range: &IdMap) -> Self {
        let pair = |(from, from_count): (u32, u32), (to, to_count): (u32, u32)| {
            coalesce([
                Extent { inside: 1, outside: from, count: from_count.min(RANGE) },
                Extent { inside: 1 + RANGE, outside: to, count: to_count.min(RANGE) },
            ])
        };
        Self {
            uids: pair((home.uid_start, home.uid_count), (range.uid_start, range.uid_count)),
            gids: pair((home.gid_start, home.gid_count), (range.gid_start, range.gid_count)),
        }
    }

    /// How ids of any range become those of `range`; none if it is not among them.
    pub(crate) fn shift_to(&self, range: &IdMap) -> Option<Shift> {
        let place = |extents: &[Extent], start: u32| {
            let has = |e: &&Extent| start.checked_sub(e.outside).is_some_and(|nth| nth < e.count);
            let found = extents.iter().find(has)?;
            let count = extents.iter().map(|e| e.count).sum();
            Some(Place { count, target: found.inside + (start - found.outside) })
        };
        Some(Shift { uids: place(&self.uids, range.uid_start)?, gids: place(&self.gids, range.gid_start)? })
    }

    /// Every id of every range, in whatever place: enough to remove what they own.
    pub(crate) fn all<'a>(ranges: impl Iterator<Item = &'a IdMap> + Clone) -> Self {
        Self {
            uids: union(ranges.clone().map(|ids| (ids.uid_start, ids.uid_count))),
            gids: union(ranges.map(|ids| (ids.gid_start, ids.gid_count))),
        }
    }
}

/// Neighbours on both sides become one; what is empty goes.
fn coalesce(extents: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut list: Vec<Extent> = Vec::new();
    for next in extents.into_iter().filter(|extent| extent.count > 0) {
        match list.last_mut() {
            Some(last)
                if last.inside.checked_add(last.count) == Some(next.inside)
                    && last.outside.checked_add(last.count) == Some(next.outside) =>
            {
                last.count += next.count;
            }
            _ => list.push(next),
        }
    }
    list
}

/// Ranges that overlap, which the kernel would refuse, count once.
fn union(ranges: impl Iterator<Item = (u32, u32)>) -> Vec<Extent> {
    let mut sorted: Vec<(u64, u64)> =
        ranges.map(|(start, count)| (u64::from(start), u64::from(start) + u64::from(count))).collect();
    sorted.retain(|(start, end)| start < end);
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (start, end) in sorted {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    let mut inside = 1u32;
    let mut list = Vec::new();
    for (start, end) in merged {
        let (Ok(outside), Ok(count)) = (u32::try_from(start), u32::try_from(end - start)) else { continue };
        list.push(Extent { inside, outside, count });
        inside = inside.saturating_add(count);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(start: u32, count: u32) -> IdMap {
        IdMap { uid_start: start, uid_count: count, gid_start: start + 7, gid_count: count }
    }

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn a_shift_has_both_ranges_at_fixed_places() {
        let apart = Extents::shift(&ids(100_000, RANGE), &ids(1_000_000, RANGE));
        assert_eq!(apart.uids, [extent(1, 100_000, RANGE), extent(65_537, 1_000_000, RANGE)]);
        assert_eq!(apart.gids, [extent(1, 100_007, RANGE), extent(65_537, 1_000_007, RANGE)]);
        let adjacent = Extents::shift(&ids(100_000, RANGE), &ids(165_536, RANGE));
        assert_eq!(adjacent.uids, [extent(1, 100_000, 131_072)]);
        // A short home leaves a gap, a long one is cut.
        let short = Extents::shift(&ids(100_000, 1000), &ids(101_000, RANGE));
        assert_eq!(short.uids, [extent(1, 100_000, 1000), extent(65_537, 101_000, RANGE)]);
        let long = Extents::shift(&ids(100_000, 4_000_000), &ids(165_536, 4_000_000));
        assert_eq!(long.uids, [extent(1, 100_000, 131_072)]);
    }

    #[test]
    fn sixty_four_ranges_in_a_row_are_one_extent() {
        let row: Vec<IdMap> = (0..64).map(|n| ids(1_000_000 + n * RANGE, RANGE)).collect();
        let home = ids(100_000, RANGE);
        let all = Extents::all(std::iter::once(&home).chain(row.iter().rev()));
        assert_eq!(all.uids, [extent(1, 100_000, RANGE), extent(65_537, 1_000_000, 64 * RANGE)]);
        assert_eq!(all.gids, [extent(1, 100_007, RANGE), extent(65_537, 1_000_007, 64 * RANGE)]);
    }

    #[test]
    fn an_id_keeps_its_place_in_its_range() {
        let (home, other) = (ids(1_000_000, RANGE), ids(100_000, RANGE));
        let all = Extents::all([&home, &other].into_iter());
        let place = |target| Place { count: 2 * RANGE, target };
        assert_eq!(all.shift_to(&other), Some(Shift { uids: place(1), gids: place(1) }));
        assert_eq!(all.shift_to(&home), Some(Shift { uids: place(1 + RANGE), gids: place(1 + RANGE) }));
        assert_eq!(all.shift_to(&ids(500_000, RANGE)), None);
    }

    #[test]
    fn what_overlaps_counts_once() {
        let list = [ids(1000, 500), ids(1200, 100), ids(1400, 200), ids(1000, 500), ids(5000, 0)];
        assert_eq!(Extents::all(list.iter()).uids, [extent(1, 1000, 600)]);
    }
}
