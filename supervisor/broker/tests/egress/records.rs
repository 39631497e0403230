//! What is told for the audit log.

use std::time::Duration;

use cordium_broker::{Happened, Record, watch_records};
use cordium_egress::Policy;

use crate::is_reset;
use crate::support::{OUTSIDE, World, isolated};

/// All that come until they are what is waited for.
pub fn until(world: &World, epoch: u64, after: u64, last: impl Fn(&[Record]) -> bool) -> Vec<Record> {
    let socket = world.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut records = watch_records(&socket, epoch, after).await.unwrap();
        let mut found = Vec::new();
        while !last(&found) {
            let next = tokio::time::timeout(Duration::from_secs(20), records.next());
            found.push(next.await.unwrap_or_else(|_| panic!("{found:?}")).unwrap().unwrap());
        }
        found
    })
}

fn sum(records: &[Record]) -> u64 {
    records.iter().map(|record| record.count).sum()
}

#[test]
fn a_flood_of_denials_is_a_few_records_that_count_them_all() {
    isolated("egress::records::a_flood_of_denials_is_a_few_records_that_count_them_all", || {
        const SAME: u64 = 2000;
        const PORTS: u16 = 300;
        let world = World::new();
        let registered = world.register(Policy::default(), vec![]);
        world.sandbox.run(|| {
            (0..SAME).for_each(|_| is_reset(OUTSIDE, 443));
            (0..PORTS).for_each(|port| is_reset(OUTSIDE, 2000 + port));
        });
        let first = until(&world, 0, 0, |records| records.len() >= 64);
        drop(registered);
        let all = until(&world, 0, 0, |records| sum(records) >= SAME + u64::from(PORTS));
        assert_eq!(sum(&all), SAME + u64::from(PORTS));
        assert_eq!(all[..64], first[..64]);
        // Of each kind the first, then the rest of one kind, and a count of what could not be told apart.
        assert_eq!(all.len(), 66, "{all:?}");
        let Happened::Denied(denial) = &all[0].what else { panic!("{:?}", all[0]) };
        assert_eq!((denial.rule.as_str(), denial.port, all[0].count), ("default", Some(443), 1));
        assert_eq!((all[0].workspace.as_str(), all[0].run.as_str()), ("ws-test", "run-test"));
        assert!(matches!(all[64].what, Happened::Denied(_)) && all[64].count == SAME - 1, "{:?}", all[64]);
        assert_eq!((&all[65].what, all[65].count), (&Happened::DenialsLeftOut, u64::from(PORTS) - 63));
        assert!(all.windows(2).all(|pair| pair[1].number == pair[0].number + 1));
        // A reader goes on where it was; one that knows another broker gets all there is.
        let epoch = all[0].epoch;
        assert_eq!(until(&world, epoch, all[63].number, |records| records.len() >= 2), all[64..]);
        assert_eq!(until(&world, epoch - 1, 1 << 40, |records| records.len() >= 66), all);
    });
}
