//! Which names of a workspace led to which addresses: the workspace's own resolver remembers what it has answered.
//!
//! A rule that names a host opens the addresses that the name led to, and no others.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cordium_egress::Host;

/// Pairs of name and address that one workspace may have; the one not used for longest goes.
const MOST: usize = 4096;
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub(crate) struct Pins(Mutex<Table>);

#[derive(Default)]
struct Table {
    at: HashMap<IpAddr, Vec<Pin>>,
    /// By last use, the oldest first.
    order: BTreeMap<u64, (IpAddr, Host)>,
    uses: u64,
}

struct Pin {
    name: Host,
    until: Instant,
    used: u64,
}

impl Pins {
    /// Notes that `name` was answered with `address`, for the time that the answer lives, within bounds.
    pub(crate) fn pin(&self, name: &Host, address: IpAddr, ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(SHORTEST, LONGEST);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pin(name, address.to_canonical(), until);
    }

    /// The names that lead to `address`.
    pub(crate) fn names(&self, address: IpAddr, now: Instant) -> Arc<[Host]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).names(address.to_canonical(), now)
    }
}

impl Table {
    fn pin(&mut self, name: &Host, address: IpAddr, until: Instant) {
        self.uses += 1;
        let used = self.uses;
        let pins = self.at.entry(address).or_default();
        match pins.iter_mut().find(|pin| pin.name == *name) {
            Some(pin) => {
                self.order.remove(&pin.used);
                pin.until = pin.until.max(until);
                pin.used = used;
            }
            None => pins.push(Pin { name: name.clone(), until, used }),
        }
        self.order.insert(used, (address, name.clone()));
        if self.order.len() > MOST
            && let Some((used, (address, _))) = self.order.pop_first()
        {
            self.forget(address, used);
        }
    }

    fn forget(&mut self, address: IpAddr, used: u64) {
        if let Some(pins) = self.at.get_mut(&address) {
            pins.retain(|pin| pin.used != used);
            if pins.is_empty() {
                self.at.remove(&address);
            }
        }
    }

    fn names(&mut self, address: IpAddr, now: Instant) -> Arc<[Host]> {
        let Some(pins) = self.at.get_mut(&address) else { return Arc::default() };
        for pin in pins.iter_mut() {
            self.order.remove(&pin.used);
            if pin.until > now {
                self.uses += 1;
                pin.used = self.uses;
                self.order.insert(pin.used, (address, pin.name.clone()));
            }
        }
        pins.retain(|pin| pin.until > now);
        let names = pins.iter().map(|pin| pin.name.clone()).collect();
        if pins.is_empty() {
            self.at.remove(&address);
        }
        names
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    fn address(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(0x0100_0000 + u32::try_from(number).unwrap()).into()
    }

    fn names(pins: &Pins, address: IpAddr, now: Instant) -> Vec<String> {
        pins.names(address, now).iter().map(Host::to_string).collect()
    }

    #[test]
    fn an_address_has_the_names_that_led_to_it_while_their_answers_live() {
        let (pins, now) = (Pins::default(), Instant::now());
        pins.pin(&host("A.example."), address(1), Duration::from_secs(300), now);
        pins.pin(&host("b.example"), address(1), Duration::ZERO, now);
        pins.pin(&host("c.example"), "::ffff:1.0.0.2".parse().unwrap(), Duration::MAX / 4, now);
        assert_eq!(names(&pins, address(1), now), ["a.example", "b.example"]);
        assert_eq!(names(&pins, address(2), now + LONGEST / 2), ["c.example"]);
        assert_eq!(names(&pins, address(1), now + SHORTEST), ["a.example"], "a TTL of 0 lives a minute");
        assert!(names(&pins, address(2), now + LONGEST).is_empty(), "none lives longer than an hour");
        assert!(names(&pins, address(3), now).is_empty());
    }

    #[test]
    fn a_shorter_answer_does_not_shorten_a_longer_one() {
        let (pins, now) = (Pins::default(), Instant::now());
        pins.pin(&host("a.example"), address(1), Duration::from_secs(600), now);
        pins.pin(&host("a.example"), address(1), Duration::from_secs(60), now);
        assert_eq!(names(&pins, address(1), now + Duration::from_secs(500)), ["a.example"]);
    }

    #[test]
    fn the_table_is_bounded_and_what_is_not_used_goes_first() {
        let (pins, now) = (Pins::default(), Instant::now());
        let ttl = Duration::from_secs(300);
        for number in 0..MOST {
            pins.pin(&host("a.example"), address(number), ttl, now);
        }
        assert_eq!(names(&pins, address(0), now), ["a.example"]);
        for number in MOST..MOST + 10 {
            pins.pin(&host("a.example"), address(number), ttl, now);
        }
        assert_eq!(names(&pins, address(0), now), ["a.example"], "it was used");
        assert!((1..=10).all(|number| names(&pins, address(number), now).is_empty()));
        let table = pins.0.lock().unwrap();
        assert_eq!((table.order.len(), table.at.len()), (MOST, MOST));
    }
}
