//! A condition: read or refused with a place in it; what is read is answered, and fails closed.

use cordium_egress::{
    Action, DefaultAction, Flow, Host, Moment, Policy, Protocol, Rule, Said, Settled, Subject,
};

/// Checks it.
pub fn condition(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let compiled = match with(Action::Allow, text, DefaultAction::Deny).compile() {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!(error.path == "rules[0].condition" || error.path == "rules", "{error}");
            assert!(error.was.len() < 1_024 && !error.was.is_empty(), "{error}");
            return;
        }
    };
    let names = [Host::parse("a.example").expect("a name")];
    let began = Moment::at(1_795_298_193);
    let protocol = Protocol::Tcp;
    let flow = Flow { address: [1, 1, 1, 1].into(), port: 443, protocol, names: &names, began };
    let said = Said::Name(&names[0]);
    let allowed = opens(compiled.decide_again(&flow, said));
    let resolves = compiled.resolves(&names[0], began).is_allowed();
    assert!(resolves || !allowed, "a name that a flow is allowed by does not resolve");
    // The same condition as a DENY beside an ALLOW: what it allowed, it denies now.
    let deny = with(Action::Deny, text, DefaultAction::AllowPublic);
    let denied = !opens(deny.compile().expect("it was valid").decide_again(&flow, said));
    assert!(denied || !allowed, "it is true for an ALLOW and not for a DENY");
    // In parentheses it means the same, where there is room for them.
    let inside = format!("({text})");
    if let Ok(compiled) = with(Action::Allow, &inside, DefaultAction::Deny).compile() {
        assert_eq!(opens(compiled.decide_again(&flow, said)), allowed, "{inside}");
    }
}

/// Whether every request of it may go on.
fn opens(settled: Settled<'_>) -> bool {
    matches!(settled, Settled::Decided(ruling) if ruling.is_allowed())
}

fn with(action: Action, condition: &str, default_action: DefaultAction) -> Policy {
    let rule = Rule {
        name: None,
        action,
        cidrs: vec!["0.0.0.0/0".into()],
        hosts: vec!["a.example".into()],
        ports: vec![],
        protocols: vec![],
        methods: vec![],
        paths: vec![],
        condition: Some(condition.into()),
    };
    let subject = Subject { workspace: "dev".into(), user: Some("uid 0".into()), ..Subject::default() };
    Policy { default_action, rules: vec![rule], protected: vec![], context: Some(subject) }
}
