//! Which of the policy's networks hold an address: one hash look-up for each prefix length that occurs.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::Cidr;

#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    ids: HashMap<Cidr, u32>,
    lengths_v4: BTreeSet<u8>,
    lengths_v6: BTreeSet<u8>,
}

impl Prefixes {
    /// The network's number; numbers count up from 0.
    pub(crate) fn add(&mut self, cidr: Cidr) -> u32 {
        let lengths = if cidr.is_ipv4() { &mut self.lengths_v4 } else { &mut self.lengths_v6 };
        lengths.insert(cidr.length());
        // Lists are bounded far below this.
        let next = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        *self.ids.entry(cidr).or_insert(next)
    }

    pub(crate) fn matching(&self, address: IpAddr) -> impl Iterator<Item = u32> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().filter_map(move |length| self.ids.get(&Cidr::around(address, *length)).copied())
    }
}
