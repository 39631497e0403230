//! A condition: read or refused with a place in it; what is read is answered, and printed and read again it is the same.
#![no_main]

use cordium_egress::{Action, DefaultAction, Flow, Host, Moment, Policy, Rule, Said, Subject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let rule = |action, condition: &str| Rule {
        name: None,
        action,
        cidrs: vec!["0.0.0.0/0".into()],
        hosts: vec![],
        ports: vec![],
        condition: Some(condition.into()),
    };
    let policy = |rules| Policy {
        default_action: DefaultAction::Deny,
        rules,
        protected: vec![],
        context: Some(Subject { workspace: "dev".into(), user: Some("uid 0".into()), ..Subject::default() }),
    };
    let compiled = match policy(vec![rule(Action::Allow, text)]).compile() {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!(error.path == "rules[0].condition" || error.path == "rules", "{error}");
            assert!(error.was.len() < 1_024 && !error.was.is_empty(), "{error}");
            return;
        }
    };
    let names = [Host::parse("a.example").expect("a name")];
    let began = Moment::at(1_795_298_193);
    let flow = Flow { address: [1, 1, 1, 1].into(), port: 443, names: &names, began };
    let said = Said::Name(&names[0]);
    let allowed = compiled.decide_again(&flow, said).is_allowed();
    let resolves = compiled.resolves(&names[0], began).is_allowed();
    assert!(resolves || !allowed, "a name that a flow is allowed by does not resolve");
    // The same condition as a DENY beside an ALLOW: what it allowed, it denies now.
    let mut deny = policy(vec![rule(Action::Deny, text)]);
    deny.default_action = DefaultAction::AllowPublic;
    let denied = !deny.compile().expect("it was valid").decide_again(&flow, said).is_allowed();
    assert!(denied || !allowed, "it is true for an ALLOW and not for a DENY");
    // In parentheses it means the same, where there is room for them.
    let inside = format!("({text})");
    if let Ok(compiled) = policy(vec![rule(Action::Allow, &inside)]).compile() {
        assert_eq!(compiled.decide_again(&flow, said).is_allowed(), allowed, "{inside}");
    }
});
