//! How long a decision takes: `cargo run --release -p cordium-egress --example decisions`. With `--json` one object a line.

use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use cordium_egress::{Action, DefaultAction, Flow, Host, Policy, Protocol, Rule, Said};

const DECISIONS: usize = 200_000;

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn host(&mut self, hosts: u64) -> String {
        format!("n{}.{}.test", self.roll(4), self.roll(hosts))
    }

    fn address(&mut self) -> IpAddr {
        match self.roll(4) {
            0 => IpAddr::from(((0x2600_u128 << 112) | (u128::from(self.roll(1 << 31)) << 64)).to_be_bytes()),
            _ => IpAddr::from((self.roll(1 << 31) as u32).to_be_bytes()),
        }
    }
}

/// A third each: networks, hosts, both; every prefix length occurs.
fn rule(dice: &mut Dice, rules: u64) -> Rule {
    let kind = dice.roll(3);
    let mut cidrs = Vec::new();
    let mut hosts = Vec::new();
    for _ in 0..1 + dice.roll(4) / 3 {
        if kind != 1 {
            cidrs.push(cidr(dice.address(), dice.roll(32) as u32));
        }
        if kind != 0 {
            let wild = if dice.roll(2) == 0 { "*." } else { "" };
            hosts.push(format!("{wild}{}", dice.host(rules)));
        }
    }
    let action = if dice.roll(10) == 0 { Action::Deny } else { Action::Allow };
    let ports = (0..dice.roll(2)).map(|_| 1 + dice.roll(65_535) as u16).collect();
    let protocols = [&[][..], &[Protocol::Udp], &[Protocol::Tcp, Protocol::Udp]];
    let protocols = protocols[dice.roll(3) as usize].to_vec();
    Rule {
        name: None,
        action,
        cidrs,
        hosts,
        ports,
        protocols,
        methods: vec![],
        paths: vec![],
        condition: None,
    }
}

fn cidr(address: IpAddr, shorter: u32) -> String {
    match address {
        IpAddr::V4(v4) => {
            let length = 32 - shorter.min(24);
            format!("{}/{length}", IpAddr::from((v4.to_bits() & (u32::MAX << (32 - length))).to_be_bytes()))
        }
        IpAddr::V6(v6) => {
            let length = 128 - shorter * 3;
            format!("{}/{length}", IpAddr::from((v6.to_bits() & (u128::MAX << (128 - length))).to_be_bytes()))
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    if !json {
        println!("rules   compiled in   decisions/s   median      p99");
    }
    for count in [1, 100, 10_000] {
        let mut dice = Dice(count);
        let rules = (0..count).map(|_| rule(&mut dice, count)).collect();
        let policy = Policy {
            default_action: DefaultAction::Deny,
            rules,
            protected: vec!["10.0.0.0/8".into()],
            context: None,
        };
        let started = Instant::now();
        let compiled = policy.compile()?;
        let compile = started.elapsed();
        let began = SystemTime::now().into();
        let mut times = Vec::with_capacity(DECISIONS);
        for _ in 0..DECISIONS {
            let names = [Host::parse(&dice.host(count))?, Host::parse(&format!("www.{}", dice.host(count)))?];
            let address = dice.address();
            let port = 1 + dice.roll(65_535) as u16;
            let (protocol, said) = match dice.roll(4) {
                0 => (Protocol::Udp, Said::Other),
                _ => (Protocol::Tcp, Said::Name(&names[0])),
            };
            let flow = Flow { address, port, protocol, names: &names, began };
            let started = Instant::now();
            let ruling = compiled.decide_again(&flow, said);
            let _ = std::hint::black_box(ruling);
            times.push(started.elapsed());
        }
        let per_second = DECISIONS as f64 / times.iter().sum::<Duration>().as_secs_f64();
        times.sort_unstable();
        let (median, p99) = (times[DECISIONS / 2], times[DECISIONS * 99 / 100]);
        if json {
            let measured = serde_json::json!({
                "rules": count,
                "decisions": DECISIONS,
                "perSecond": per_second,
                "p99Nanoseconds": u64::try_from(p99.as_nanos())?,
            });
            println!("{measured}");
            continue;
        }
        println!("{count:>6}  {compile:>11.1?}  {per_second:>11.0}   {median:>8.1?} {p99:>8.1?}");
    }
    Ok(())
}
