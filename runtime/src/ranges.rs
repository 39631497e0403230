//! Which range of subordinate ids each workspace runs in.
//!
//! ```text
//!  /etc/subuid, /etc/subgid ─▶ 0: home, which owns the layers · 1 · 2 · … · n-1, each of 65,536 ids
//!
//!  files of its own? ─ yes, and nobody else runs there ─▶ the range that owns them
//!         │
//!         └─ else ─▶ one that nobody runs in: with a keeper made ahead, with the fewest files of others, used last
//!                       └─ none left ─▶ the one with the fewest running, which is then shared
//! ```
//! Nothing of this is written down: files tell by their owner to which range they belong.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::IdMap;

/// The ranges of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ranges {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    all: Vec<IdMap>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who runs in each.
    running: BTreeMap<usize, BTreeSet<String>>,
    /// Whose files belong to which.
    files: BTreeMap<String, usize>,
    /// Keepers made ahead, of each.
    ahead: BTreeMap<usize, usize>,
    /// When each was used last, in claims.
    used: BTreeMap<usize, u64>,
    claims: u64,
}

impl Ranges {
    /// The first of them is home. There is at least one.
    pub fn new(home: IdMap, others: impl IntoIterator<Item = IdMap>) -> Self {
        let all = std::iter::once(home).chain(others).collect();
        Self { shared: Arc::new(Shared { all, state: Mutex::default() }) }
    }

    /// The range that owns the files of layers.
    pub fn home(&self) -> &IdMap {
        &self.shared.all[0]
    }

    /// All of them, home first.
    pub fn all(&self) -> &[IdMap] {
        &self.shared.all
    }

    /// The range that a file belongs to, by the id of its owner on the host.
    pub fn of_owner(&self, uid: u32) -> Option<IdMap> {
        let has = |ids: &&IdMap| uid.checked_sub(ids.uid.host_start).is_some_and(|n| n < ids.uid.count);
        self.shared.all.iter().find(has).copied()
    }

    /// Notes that files of `user` belong to `ids`, though it does not run.
    pub fn note_files(&self, user: &str, ids: &IdMap) {
        if let Some(index) = self.index(ids) {
            self.lock().files.insert(user.to_owned(), index);
        }
    }

    /// Takes the range in which `user` runs from now on. `bound` is one that it must run in.
    pub fn claim(&self, user: &str, bound: Option<IdMap>) -> IdMap {
        let bound = bound.and_then(|ids| self.index(&ids));
        let mut state = self.lock();
        let index = bound.unwrap_or_else(|| state.choose(self.shared.all.len()));
        state.running.retain(|_, users| {
            users.remove(user);
            !users.is_empty()
        });
        state.claims += 1;
        let now = state.claims;
        state.used.insert(index, now);
        state.files.insert(user.to_owned(), index);
        state.running.entry(index).or_default().insert(user.to_owned());
        self.shared.all[index]
    }

    /// `user` runs no more; its files stay.
    pub fn release(&self, user: &str) {
        self.lock().running.retain(|_, users| {
            users.remove(user);
            !users.is_empty()
        });
    }

    /// The files of `user` are gone.
    pub fn forget_files(&self, user: &str) {
        self.lock().files.remove(user);
    }

    /// Others that run in the same range.
    pub fn others_in(&self, ids: &IdMap, user: &str) -> Vec<String> {
        let Some(index) = self.index(ids) else { return Vec::new() };
        let state = self.lock();
        state.running.get(&index).into_iter().flatten().filter(|other| *other != user).cloned().collect()
    }

    /// Where `user` runs, if it does.
    pub fn claimed_by(&self, user: &str) -> Option<IdMap> {
        let state = self.lock();
        let found = state.running.iter().find(|(_, users)| users.contains(user));
        found.map(|(index, _)| self.shared.all[*index])
    }

    /// Whether there is one in which nobody runs.
    pub fn has_free(&self) -> bool {
        self.lock().running.len() < self.shared.all.len()
    }

    /// The range for a keeper that is made before anybody wants it.
    pub(crate) fn reserve(&self) -> IdMap {
        let mut state = self.lock();
        let free = |index: &usize| !state.running.contains_key(index) && !state.ahead.contains_key(index);
        let best = (0..self.shared.all.len()).filter(free).min_by_key(|index| state.preference(*index));
        let index = best.unwrap_or_else(|| state.choose(self.shared.all.len()));
        *state.ahead.entry(index).or_default() += 1;
        self.shared.all[index]
    }

    /// That keeper is used, or gone.
    pub(crate) fn unreserve(&self, ids: &IdMap) {
        let Some(index) = self.index(ids) else { return };
        let mut state = self.lock();
        let left = state.ahead.remove(&index).unwrap_or(0).saturating_sub(1);
        if left > 0 {
            state.ahead.insert(index, left);
        }
    }

    fn index(&self, ids: &IdMap) -> Option<usize> {
        self.shared.all.iter().position(|known| known == ids)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn choose(&self, count: usize) -> usize {
        let rank = |index: &usize| {
            let running = self.running.get(index).map_or(0, BTreeSet::len);
            (running, !self.ahead.contains_key(index), self.preference(*index))
        };
        (0..count).min_by_key(rank).unwrap_or(0)
    }

    /// Small is good: few files of others, and used a short while ago, for layers may be ready for it.
    fn preference(&self, index: usize) -> (usize, std::cmp::Reverse<u64>, usize) {
        let files = self.files.values().filter(|other| **other == index).count();
        (files, std::cmp::Reverse(self.used.get(&index).copied().unwrap_or(0)), index)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::IdRange;

    fn ids(index: u32) -> IdMap {
        let range = IdRange { host_start: 100_000 + index * 65_536, count: 65_536 };
        IdMap { uid: range, gid: range }
    }

    fn ranges(count: u32) -> Ranges {
        Ranges::new(ids(0), (1..count).map(ids))
    }

    #[test]
    fn each_that_runs_has_its_own_until_there_are_none_left() {
        let ranges = ranges(3);
        let claimed: Vec<_> = ["a", "b", "c"].map(|user| ranges.claim(user, None)).to_vec();
        assert_eq!(claimed, [ids(0), ids(1), ids(2)]);
        assert!(ranges.others_in(&ids(1), "b").is_empty());
        let fourth = ranges.claim("d", None);
        assert_eq!(ranges.others_in(&fourth, "d"), ["c"]);
        ranges.release("b");
        ranges.forget_files("b");
        assert_eq!(ranges.claim("e", None), ids(1));
    }

    #[test]
    fn files_bind_and_those_of_others_are_kept_apart() {
        let ranges = ranges(3);
        assert_eq!(ranges.claim("a", None), ids(0));
        ranges.release("a");
        // Its files are there still.
        assert_eq!(ranges.claim("b", None), ids(1));
        assert_eq!(ranges.claim("a", Some(ids(0))), ids(0));
        ranges.release("b");
        ranges.forget_files("b");
        ranges.note_files("c", &ids(1));
        assert_eq!(ranges.claim("d", None), ids(2));
    }

    #[test]
    fn the_range_used_last_is_used_again() {
        let ranges = ranges(4);
        for user in ["a", "b"] {
            ranges.claim(user, None);
        }
        for user in ["a", "b"] {
            ranges.release(user);
            ranges.forget_files(user);
        }
        assert_eq!(ranges.claim("c", None), ids(1));
        assert_eq!(ranges.claim("d", None), ids(0));
    }

    #[test]
    fn what_was_made_ahead_is_used_first() {
        let ranges = ranges(4);
        assert_eq!(ranges.claim("a", None), ids(0));
        assert_eq!((ranges.reserve(), ranges.reserve()), (ids(1), ids(2)));
        assert_eq!(ranges.claim("b", None), ids(1));
        ranges.unreserve(&ids(1));
        assert_eq!(ranges.claim("c", None), ids(2));
        ranges.unreserve(&ids(2));
        assert_eq!(ranges.reserve(), ids(3));
        assert_eq!(ranges.claim("d", None), ids(3));
        // With none left, keepers are made for one that is in use.
        assert_eq!(ranges.reserve(), ids(3));
    }

    #[test]
    fn one_range_is_everybodys() {
        let ranges = ranges(1);
        assert_eq!(ranges.claim("a", None), ids(0));
        assert_eq!(ranges.claim("b", None), ids(0));
        assert_eq!(ranges.others_in(&ids(0), "b"), ["a"]);
        assert_eq!(ranges.of_owner(100_000), Some(ids(0)));
        assert_eq!(ranges.of_owner(165_535), Some(ids(0)));
        assert_eq!(ranges.of_owner(165_536), None);
        assert_eq!(ranges.of_owner(0), None);
    }
}
