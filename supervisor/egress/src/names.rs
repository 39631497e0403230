//! Which of the policy's host patterns match a name: one hash look-up for the name, one for each wildcard depth.

use std::collections::{BTreeSet, HashMap};

use crate::{Host, Pattern};

#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: HashMap<Box<str>, u32>,
    below: HashMap<Box<str>, u32>,
    /// How many labels the names have that wildcards are below of.
    depths: BTreeSet<usize>,
    count: u32,
}

impl Names {
    /// The pattern's number; numbers count up from 0.
    pub(crate) fn add(&mut self, pattern: &Pattern) -> u32 {
        let (map, host) = match pattern {
            Pattern::Exact(host) => (&mut self.exact, host),
            Pattern::Below(host) => {
                self.depths.insert(host.as_str().split('.').count());
                (&mut self.below, host)
            }
        };
        if let Some(id) = map.get(host.as_str()) {
            return *id;
        }
        let id = self.count;
        map.insert(host.as_str().into(), id);
        self.count += 1;
        id
    }

    pub(crate) fn matching<'a>(&'a self, name: &'a Host) -> impl Iterator<Item = u32> + 'a {
        let text = name.as_str();
        let dots = text.rmatch_indices('.').map(|(at, _)| at).enumerate();
        let wild = dots
            .filter(|(index, _)| self.depths.contains(&(index + 1)))
            .filter_map(|(_, at)| text.get(at + 1..).and_then(|suffix| self.below.get(suffix)));
        self.exact.get(text).into_iter().chain(wild).copied()
    }
}
