//! The semantics read slowly, rule by rule, and the proof that the compiled policy decides the same.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{
    Action, Cidr, DefaultAction, Flow, Host, Pattern, Policy, Reason, Rule, RuleRef, Ruling, Said, Verdict,
    is_public, protected, spellings,
};

/// One flow under one name or none.
struct Question<'a> {
    address: IpAddr,
    port: u16,
    name: Option<&'a Host>,
}

fn hosts_match(rule: &Rule, name: Option<&Host>) -> bool {
    rule.hosts.is_empty()
        || name.is_some_and(|name| rule.hosts.iter().any(|text| Pattern::parse(text).unwrap().matches(name)))
}

fn holds(cidrs: &[String], address: IpAddr) -> bool {
    cidrs.iter().any(|text| Cidr::parse(text).unwrap().contains(address))
}

fn matches(rule: &Rule, asked: &Question<'_>) -> bool {
    let address = asked.address.to_canonical();
    let addresses = match rule.action {
        Action::Allow if rule.cidrs.is_empty() => is_public(address),
        Action::Allow => holds(&rule.cidrs, address),
        Action::Deny => {
            rule.cidrs.is_empty()
                || spellings(address).into_iter().flatten().any(|one| holds(&rule.cidrs, one))
        }
    };
    addresses && hosts_match(rule, asked.name) && (rule.ports.is_empty() || rule.ports.contains(&asked.port))
}

/// Who decides: `Ok` allows.
type Outcome = Result<String, String>;

fn first(policy: &Policy, action: Action, asked: &Question<'_>) -> Option<usize> {
    policy.rules.iter().position(|rule| rule.action == action && matches(rule, asked))
}

fn shown(policy: &Policy, index: usize) -> String {
    policy.rules[index].name.clone().unwrap_or_else(|| format!("rules[{index}]"))
}

fn ruling(policy: &Policy, asked: &Question<'_>) -> Outcome {
    if let Some(index) = first(policy, Action::Deny, asked) {
        return Err(shown(policy, index));
    }
    if let Some(index) = first(policy, Action::Allow, asked) {
        return Ok(shown(policy, index));
    }
    match policy.default_action {
        DefaultAction::AllowPublic if is_public(asked.address) => Ok("default".into()),
        _ => Err("default".into()),
    }
}

fn never(policy: &Policy, address: IpAddr) -> bool {
    protected(address.to_canonical()).is_some()
        || spellings(address.to_canonical()).into_iter().flatten().any(|one| holds(&policy.protected, one))
}

/// Whether the flow must be asked for its name.
fn needs_name(policy: &Policy, flow: &Flow<'_>) -> bool {
    let (address, port) = (flow.address, flow.port);
    if first(policy, Action::Deny, &Question { address, port, name: None }).is_some() {
        return false;
    }
    if ruling(policy, &Question { address, port, name: None }).is_ok() {
        return policy.rules.iter().any(|rule| {
            let anyone = Rule { hosts: vec![], ..rule.clone() };
            rule.action == Action::Deny
                && !rule.hosts.is_empty()
                && matches(&anyone, &Question { address, port, name: None })
        });
    }
    flow.names.iter().any(|name| ruling(policy, &Question { address, port, name: Some(name) }).is_ok())
}

fn resolves(policy: &Policy, name: &Host) -> bool {
    let by_hosts = |rule: &&Rule| !rule.hosts.is_empty() && hosts_match(rule, Some(name));
    let everything = |rule: &&Rule| {
        rule.hosts.is_empty() && rule.cidrs.iter().any(|cidr| cidr == "0.0.0.0/0" || cidr == "::/0")
    };
    let of = |action| policy.rules.iter().filter(move |rule| rule.action == action);
    if of(Action::Deny).filter(by_hosts).any(|rule| rule.ports.is_empty() && rule.cidrs.is_empty()) {
        return false;
    }
    policy.default_action == DefaultAction::AllowPublic
        || of(Action::Allow).any(|rule| by_hosts(&rule) || everything(&rule))
}

fn outcome(ruling: Ruling<'_>) -> Outcome {
    match ruling {
        Ruling::Allow { rule } => Ok(rule.to_string()),
        Ruling::Deny { rule, .. } => Err(rule.to_string()),
    }
}

const CIDRS: [&str; 12] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "1.1.1.0/24",
    "1.1.1.1/32",
    "8.0.0.0/5",
    "2000::/3",
    "2606:4700::/32",
    "fd00::/8",
    "64:ff9b::/96",
    "198.18.0.0/15",
];
const ADDRESSES: [&str; 15] = [
    "1.1.1.1",
    "1.1.1.2",
    "8.8.8.8",
    "10.1.2.3",
    "10.2.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "127.0.0.1",
    "169.254.169.254",
    "2606:4700::1111",
    "2a00::1",
    "fd12::1",
    "64:ff9b::a01:203",
    "64:ff9b::101:101",
    "::ffff:1.1.1.1",
];
const HOSTS: [&str; 8] = [
    "a.example",
    "*.a.example",
    "b.a.example",
    "*.b.a.example",
    "*.example",
    "example",
    "evil.test",
    "*.test",
];
const NAMES: [&str; 8] = [
    "a.example",
    "b.a.example",
    "c.b.a.example",
    "d.c.b.a.example",
    "example",
    "evil.test",
    "x.evil.test",
    "other",
];
const PORTS: [u16; 3] = [22, 80, 443];

fn rule() -> impl Strategy<Value = Rule> {
    let some = |all: &'static [&'static str]| subsequence(all.to_vec(), 0..=3);
    let action = select(vec![Action::Allow, Action::Deny]);
    let name = select(vec![None, None, Some("one"), Some("two")]);
    (name, action, some(&CIDRS), some(&HOSTS), subsequence(PORTS.to_vec(), 0..=2)).prop_map(
        |(name, action, cidrs, mut hosts, ports)| {
            if cidrs.is_empty() && hosts.is_empty() {
                hosts.push("a.example");
            }
            let own = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
            Rule { name: name.map(str::to_owned), action, cidrs: own(cidrs), hosts: own(hosts), ports }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let default = select(vec![DefaultAction::Deny, DefaultAction::AllowPublic]);
    let protected =
        subsequence(vec!["10.1.0.0/16".to_owned(), "2a00::/16".to_owned(), "8.8.8.8/32".to_owned()], 0..=2);
    (default, prop::collection::vec(rule(), 0..6), protected)
        .prop_map(|(default_action, rules, protected)| Policy { default_action, rules, protected })
}

fn hosts(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host::parse(name).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_compiled_policy_decides_as_the_text_says(
        policy in policy(),
        address in select(ADDRESSES.to_vec()),
        port in select(vec![22, 80, 443, 9999]),
        names in subsequence(NAMES.to_vec(), 0..=3),
        said in select(NAMES.to_vec()),
    ) {
        let compiled = policy.compile().unwrap();
        let address: IpAddr = address.parse().unwrap();
        let (names, said) = (hosts(&names), Host::parse(said).unwrap());
        let flow = Flow { address, port, names: &names };
        prop_assert_eq!(compiled.resolves(&said).is_allowed(), resolves(&policy, &said));
        let ask = |name| ruling(&policy, &Question { address, port, name });
        match compiled.decide(&flow) {
            Verdict::Decided(decided) if never(&policy, address) => prop_assert!(!decided.is_allowed()),
            Verdict::ByName(_) if never(&policy, address) => prop_assert!(false, "{address} was not denied"),
            Verdict::Decided(decided) => {
                prop_assert!(!needs_name(&policy, &flow));
                let expected = ask(None);
                prop_assert_eq!(decided.is_allowed(), expected.is_ok());
                if let Ruling::Allow { .. } | Ruling::Deny { reason: Reason::Rule, .. } = decided
                    && expected != Err("default".into()) {
                    prop_assert_eq!(outcome(decided), expected);
                }
            }
            Verdict::ByName(by_name) => {
                prop_assert!(needs_name(&policy, &flow));
                let pinned = names.contains(&said);
                let settled = by_name.settle(Said::Name(&said));
                if pinned {
                    let expected = ask(Some(&said));
                    prop_assert_eq!(settled.is_allowed(), expected.is_ok());
                    let private = matches!(settled, Ruling::Deny { reason: Reason::PrivateName, .. });
                    prop_assert!(private || outcome(settled) == expected);
                } else {
                    prop_assert_eq!(outcome(settled), Err("host-name".into()));
                }
                for said in [Said::Unnamed, Said::Unasked] {
                    prop_assert!(!by_name.settle(said).is_allowed());
                }
                let each: Vec<Outcome> = names.iter().map(|name| ask(Some(name))).chain([ask(None)]).collect();
                let denied = each.iter().any(|one| matches!(one, Err(rule) if rule != "default"));
                let expected = !denied && each.iter().any(Outcome::is_ok);
                prop_assert_eq!(by_name.settle(Said::Other).is_allowed(), expected);
                prop_assert_eq!(compiled.decide_again(&flow, Said::Name(&said)), settled);
            }
        }
    }

    #[test]
    fn any_policy_text_compiles_or_is_refused(
        cidrs in prop::collection::vec("[0-9a-f:./]{0,20}|.{0,10}", 0..3),
        hosts in prop::collection::vec("[a-z*.-]{0,20}|.{0,10}", 0..3),
        name in prop::option::of(".{0,70}"),
        ports in prop::collection::vec(any::<u16>(), 0..3),
    ) {
        let rule = Rule { name, action: Action::Allow, cidrs, hosts, ports };
        let policy = Policy { rules: vec![rule.clone()], ..Policy::default() };
        match policy.compile() {
            Ok(_) => prop_assert!(rule.check("x").is_ok()),
            Err(error) => prop_assert!(error.path.starts_with("rules[0]") && !error.allowed.is_empty()),
        }
    }
}

#[test]
fn the_rule_is_shown_by_its_name_or_place() {
    let rule = |name| RuleRef::Rule { index: 3, name };
    assert_eq!(rule(Some("github")).to_string(), "github");
    assert_eq!(rule(None).to_string(), "rules[3]");
    assert_eq!(RuleRef::ProtectedNetwork { index: 1 }.to_string(), "protectedNetworks[1]");
}
