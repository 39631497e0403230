//! A policy as the broker gets it.

use cordium_egress::{Action, Flow, Host, Moment, Policy, Protocol, Said};

/// Checks that it is refused with a path, or compiled and asked, and the same after it was written anew.
pub fn policy(bytes: &[u8]) {
    let Ok(policy) = serde_json::from_slice::<Policy>(bytes) else { return };
    let written = serde_json::to_string(&policy).expect("a policy is JSON");
    assert_eq!(serde_json::from_str::<Policy>(&written).expect("what was written is read"), policy);
    let compiled = match policy.compile() {
        Ok(compiled) => compiled,
        Err(error) => return assert!(!error.path.is_empty() && !error.allowed.is_empty(), "{error}"),
    };
    let names = ["a.example", "evil.test"].map(|name| Host::parse(name).expect("a name"));
    let began = Moment::at(1_795_298_193);
    for address in ["1.1.1.1", "10.1.2.3", "127.0.0.1", "2606:4700::1111", "64:ff9b::7f00:1"] {
        let address = address.parse().expect("an address");
        for port in [22, 443] {
            let udp = Flow { address, port, protocol: Protocol::Udp, names: &names, began };
            if compiled.decide_again(&udp, Said::Other).may_go_on() {
                let opens = |rule: &cordium_egress::Rule| {
                    rule.action == Action::Allow && rule.protocols.contains(&Protocol::Udp)
                };
                assert!(policy.rules.iter().any(opens), "UDP is open, and no rule says so");
            }
            let asked = [Said::Name(&names[0]), Said::Other, Said::Unnamed, Said::Unasked];
            for (protocol, said) in [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .flat_map(|protocol| asked.map(|said| (protocol, said)))
            {
                let flow = Flow { address, port, protocol, names: &names, began };
                let allowed = compiled.decide_again(&flow, said).may_go_on();
                let protected = ["127.0.0.1", "64:ff9b::7f00:1"].contains(&address.to_string().as_str());
                assert!(!(allowed && protected), "{address} is reached");
            }
        }
    }
    for name in &names {
        let _ = compiled.resolves(name, began);
    }
}
