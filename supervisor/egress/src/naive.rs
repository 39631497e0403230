//! The semantics read slowly, rule by rule, and the proof that the compiled policy decides the same.

#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use cel::{Context, Program, Value};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{
    Action, Cidr, DefaultAction, Flow, Host, Moment, Pattern, Policy, Protocol, Reason, Request, Rule,
    RuleRef, Ruling, Said, Settled, Subject, Verdict, is_public, path, protected, spellings,
};

#[derive(Clone, Copy)]
enum About<'a> {
    Best,
    Worst,
    Request { method: &'a str, path: &'a str },
}

/// One flow under one name or none.
#[derive(Clone, Copy)]
struct Question<'a> {
    address: IpAddr,
    port: u16,
    protocol: Protocol,
    name: Option<&'a Host>,
    at: i64,
    about: About<'a>,
}

fn goes_by_request(rule: &Rule) -> bool {
    let fields = ["ctx.request.method", "ctx.request.path"];
    let asks = |text: &String| fields.iter().any(|field| text.contains(field));
    !rule.methods.is_empty() || !rule.paths.is_empty() || rule.condition.as_ref().is_some_and(asks)
}

/// The text of a path, segment by segment.
fn is_below(path: &str, prefix: &str) -> bool {
    let segments = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
    let mut prefix = segments(prefix);
    if prefix.last().is_some_and(String::is_empty) {
        prefix.pop();
    }
    segments(path).starts_with(&prefix)
}

fn request_matches(rule: &Rule, about: About<'_>) -> bool {
    let denies = rule.action == Action::Deny;
    match about {
        _ if !goes_by_request(rule) => true,
        About::Best => !denies,
        About::Worst => denies,
        About::Request { method, path } => {
            let spelled = |one: &String| if denies { one.to_lowercase() } else { one.clone() };
            let asked = spelled(&method.to_owned());
            (rule.methods.is_empty() || rule.methods.iter().any(|one| spelled(one) == asked))
                && (rule.paths.is_empty()
                    || path::normalise(path)
                        .map_or(denies, |path| rule.paths.iter().any(|prefix| is_below(&path, prefix))))
        }
    }
}

fn goes_by_host(condition: Option<&String>) -> bool {
    condition.is_some_and(|text| text.contains("ctx.request.host"))
}

/// What the `cel` crate makes of a condition, all of it: its parser, its macros, and maps for `ctx`.
fn truth(
    policy: &Policy,
    text: &str,
    name: Option<&Host>,
    place: Option<(IpAddr, u16, Protocol)>,
    at: i64,
    about: About<'_>,
) -> Option<bool> {
    thread_local! {
        static PROGRAMS: RefCell<HashMap<String, Program>> = RefCell::default();
    }
    let map = |pairs: Vec<(&str, Value)>| {
        Value::from(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<HashMap<_, _>>())
    };
    let subject = policy.context.clone().unwrap_or_default();
    let mut workspace = vec![
        ("name", Value::from(subject.workspace)),
        ("uid", subject.uid.into()),
        ("space", subject.space.into()),
    ];
    workspace.extend(subject.template.map(|text| ("template", text.into())));
    let user = subject.user.map(|text| ("name", Value::from(text)));
    let mut request: Vec<(&str, Value)> =
        name.map(|name| ("host", name.as_str().to_owned().into())).into_iter().collect();
    if let Some((address, port, protocol)) = place {
        request.push(("address", address.to_canonical().to_string().into()));
        request.push(("port", i64::from(port).into()));
        request.push(("protocol", protocol.name().to_owned().into()));
    }
    if let About::Request { method, path } = about {
        request.push(("method", method.to_owned().into()));
        request.extend(path::normalise(path).ok().map(|path| ("path", path.into())));
    }
    let time = vec![
        ("hour", Value::from(at / 3600 % 24)),
        ("minute", Value::from(at / 60 % 60)),
        ("weekday", Value::from((at / 86_400 + 4) % 7)),
        ("date", Moment::at(at).date().into()),
        ("timestamp", Value::from(at)),
    ];
    let ctx = map(vec![
        ("workspace", map(workspace)),
        ("user", map(user.into_iter().collect())),
        ("request", map(request)),
        ("time", map(time)),
    ]);
    PROGRAMS.with_borrow_mut(|programs| {
        let program = programs.entry(text.to_owned()).or_insert_with(|| Program::compile(text).unwrap());
        let mut context = Context::default();
        context.add_variable_from_value("ctx", ctx);
        match program.execute(&context) {
            Ok(Value::Bool(answer)) => Some(answer),
            _ => None,
        }
    })
}

fn asks_for_request(text: &str) -> bool {
    text.contains("ctx.request.method") || text.contains("ctx.request.path")
}

fn holds_where_true(policy: &Policy, rule: &Rule, asked: &Question<'_>) -> bool {
    let Some(text) = &rule.condition else { return true };
    if goes_by_host(Some(text)) && asked.name.is_none() {
        return false;
    }
    let place = Some((asked.address, asked.port, asked.protocol));
    let open = matches!(asked.about, About::Best) && goes_by_request(rule) && asks_for_request(text);
    truth(policy, text, asked.name, place, asked.at, asked.about)
        .unwrap_or((rule.action == Action::Deny) != open)
}

fn hosts_match(rule: &Rule, name: Option<&Host>) -> bool {
    rule.hosts.is_empty()
        || name.is_some_and(|name| rule.hosts.iter().any(|text| Pattern::parse(text).unwrap().matches(name)))
}

fn holds(cidrs: &[String], address: IpAddr) -> bool {
    cidrs.iter().any(|text| Cidr::parse(text).unwrap().contains(address))
}

fn matches(policy: &Policy, rule: &Rule, asked: &Question<'_>) -> bool {
    let address = asked.address.to_canonical();
    let addresses = match rule.action {
        Action::Allow if rule.cidrs.is_empty() => is_public(address),
        Action::Allow => holds(&rule.cidrs, address),
        Action::Deny => {
            rule.cidrs.is_empty()
                || spellings(address).into_iter().flatten().any(|one| holds(&rule.cidrs, one))
        }
    };
    let protocols = match (&rule.protocols[..], rule.action) {
        ([], Action::Allow) => &[Protocol::Tcp][..],
        ([], Action::Deny) => &[Protocol::Tcp, Protocol::Udp],
        (some, _) => some,
    };
    addresses
        && protocols.contains(&asked.protocol)
        && hosts_match(rule, asked.name)
        && (rule.ports.is_empty() || rule.ports.contains(&asked.port))
        && request_matches(rule, asked.about)
        && holds_where_true(policy, rule, asked)
}

/// Who decides: `Ok` allows.
type Outcome = Result<String, String>;

fn first(policy: &Policy, action: Action, asked: &Question<'_>) -> Option<usize> {
    policy.rules.iter().position(|rule| rule.action == action && matches(policy, rule, asked))
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
        DefaultAction::AllowPublic if asked.protocol == Protocol::Tcp && is_public(asked.address) => {
            Ok("default".into())
        }
        _ => Err("default".into()),
    }
}

fn never(policy: &Policy, address: IpAddr) -> bool {
    protected(address.to_canonical()).is_some()
        || spellings(address.to_canonical()).into_iter().flatten().any(|one| holds(&policy.protected, one))
}

/// Whether the flow must be asked for its name.
fn needs_name(policy: &Policy, flow: &Flow<'_>) -> bool {
    let (address, port, protocol, at) = (flow.address, flow.port, flow.protocol, flow.began.seconds());
    let asked = |name, about| Question { address, port, protocol, name, at, about };
    if first(policy, Action::Deny, &asked(None, About::Best)).is_some() {
        return false;
    }
    if ruling(policy, &asked(None, About::Best)).is_ok() {
        return policy.rules.iter().any(|rule| {
            let by_host = goes_by_host(rule.condition.as_ref());
            let condition = rule.condition.clone().filter(|_| !by_host);
            let anyone = Rule { hosts: vec![], condition, ..rule.clone() };
            rule.action == Action::Deny
                && (by_host || !rule.hosts.is_empty())
                && matches(policy, &anyone, &asked(None, About::Worst))
        });
    }
    flow.names.iter().any(|name| ruling(policy, &asked(Some(name), About::Best)).is_ok())
}

fn resolves(policy: &Policy, name: &Host, at: i64) -> bool {
    let could = |rule: &Rule| {
        let Some(text) = &rule.condition else { return true };
        let unknown = ["address", "port", "protocol", "method", "path"]
            .iter()
            .any(|field| text.contains(&format!("ctx.request.{field}")));
        truth(policy, text, Some(name), None, at, About::Best)
            .unwrap_or((rule.action == Action::Deny) != unknown)
    };
    let by_hosts = |rule: &&Rule| !rule.hosts.is_empty() && hosts_match(rule, Some(name)) && could(rule);
    let everything = |rule: &&Rule| {
        let all = rule.cidrs.iter().any(|cidr| cidr == "0.0.0.0/0" || cidr == "::/0");
        rule.hosts.is_empty() && (all || goes_by_host(rule.condition.as_ref())) && could(rule)
    };
    let of = |action| policy.rules.iter().filter(move |rule| rule.action == action);
    let hosts_only = |rule: &Rule| {
        let every = rule.protocols.is_empty()
            || [Protocol::Tcp, Protocol::Udp].iter().all(|p| rule.protocols.contains(p));
        every && rule.ports.is_empty() && rule.cidrs.is_empty() && !goes_by_request(rule)
    };
    if of(Action::Deny).filter(by_hosts).any(hosts_only) {
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
const CONDITIONS: [&str; 20] = [
    "true",
    "ctx.time.hour >= 8 && ctx.time.hour < 18",
    "ctx.time.weekday in [1, 2, 3, 4, 5] ? ctx.request.port == 443 : ctx.request.port != 443",
    "ctx.request.host.endsWith('.a.example') || ctx.request.host == 'evil.test'",
    "!ctx.request.host.contains('b')",
    "ctx.request.port == 80 && ctx.request.host.startsWith('e')",
    "ctx.time.hour < 8 || ctx.request.address.startsWith('1.')",
    "ctx.workspace.space == 'lab' && ctx.workspace.name != 'prod'",
    "has(ctx.user.name) && ctx.user.name == 'uid 1000'",
    "ctx.user.name == 'uid 1000'",
    "ctx.workspace.template == 'python' || ctx.time.date < '2026-01-01'",
    "1 / (ctx.time.hour - 12) > 0",
    "1 / (ctx.time.hour - 12) > 0 || ctx.request.port == 22",
    "ctx.time.timestamp % 2 == 0 && ctx.request.protocol == 'tcp'",
    "ctx.request.protocol == 'udp' || ctx.request.port == 80",
    "ctx.request.port * 9223372036854775807 > 0",
    "ctx.request.method in ['GET', 'HEAD']",
    "ctx.request.path.startsWith('/a/') || ctx.time.hour == 8",
    "!(ctx.request.method == 'GET' && ctx.request.host == 'a.example') && ctx.time.hour < 18",
    "-ctx.time.minute <= -30 == (ctx.request.address in ['1.1.1.1', '8.8.8.8'])",
];
const MOMENTS: [i64; 4] = [0, 1_767_225_600, 1_795_262_400, 1_795_298_193];
const METHODS: [&str; 4] = ["GET", "POST", "get", "DELETE"];
const PATHS: [&str; 9] = ["/", "/a", "/a/", "/a/b", "/ab", "/b/a", "/a/../b", "/a//b", "/%61/b%2f"];
const PREFIXES: [&str; 4] = ["/", "/a", "/a/b/", "/b"];
const PORTS: [u16; 3] = [22, 80, 443];

fn rule() -> impl Strategy<Value = Rule> {
    let some = |all: &'static [&'static str]| subsequence(all.to_vec(), 0..=3);
    let action = select(vec![Action::Allow, Action::Deny]);
    let name = select(vec![None, None, Some("one"), Some("two")]);
    let condition = prop::option::of(select(CONDITIONS.to_vec()));
    let methods = prop_oneof![3 => Just(vec![]), 1 => subsequence(vec!["GET", "POST", "DELETE"], 1..=2)];
    let paths = prop_oneof![3 => Just(vec![]), 1 => subsequence(PREFIXES.to_vec(), 1..=2)];
    let protocols = subsequence(vec![Protocol::Tcp, Protocol::Udp], 0..=2);
    let places = (some(&CIDRS), some(&HOSTS), subsequence(PORTS.to_vec(), 0..=2), protocols);
    (name, action, places, (methods, paths), condition).prop_map(
        |(name, action, (cidrs, hosts, ports, protocols), (methods, paths), condition)| {
            let own = |list: Vec<&str>| list.into_iter().map(str::to_owned).collect();
            let (name, condition) = (name.map(str::to_owned), condition.map(str::to_owned));
            let (cidrs, hosts, methods, paths) = (own(cidrs), own(hosts), own(methods), own(paths));
            let mut rule = Rule { name, action, cidrs, hosts, ports, protocols, methods, paths, condition };
            if rule.hosts.is_empty() && (rule.cidrs.is_empty() || goes_by_request(&rule)) {
                rule.hosts.push("a.example".into());
            }
            rule
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let default = select(vec![DefaultAction::Deny, DefaultAction::AllowPublic]);
    let protected =
        subsequence(vec!["10.1.0.0/16".to_owned(), "2a00::/16".to_owned(), "8.8.8.8/32".to_owned()], 0..=2);
    let optional = |text: &'static str| prop::option::of(Just(text.to_owned()));
    let context = (select(vec!["lab", "prod"]), optional("python"), optional("uid 1000")).prop_map(
        |(space, template, user)| Subject {
            workspace: "dev".into(),
            uid: "u-1".into(),
            space: space.into(),
            template,
            user,
        },
    );
    (default, prop::collection::vec(rule(), 0..6), protected, prop::option::of(context)).prop_map(
        |(default_action, rules, protected, context)| Policy { default_action, rules, protected, context },
    )
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(words.to_vec()).prop_map(str::to_owned)
}

/// Trees over the whole language, most of them of the right types.
fn expression() -> impl Strategy<Value = String> {
    let int = word(&["0", "7", "-3", "443", "ctx.request.port", "ctx.time.hour", "ctx.time.timestamp"]);
    let int = int.prop_recursive(2, 6, 2, |inner| {
        (inner.clone(), word(&["+", "-", "*", "/", "%"]), inner)
            .prop_map(|(a, op, b)| format!("({a} {op} {b})"))
    });
    let text = || {
        word(&[
            "'a'",
            "\"evil.test\"",
            "'\\''",
            "''",
            "ctx.request.host",
            "ctx.user.name",
            "ctx.workspace.space",
        ])
    };
    let leaf = prop_oneof![
        word(&["true", "false", "has(ctx.user.name)", "has(ctx.workspace.template)", "1 / 0 == 0"]),
        (int.clone(), word(&["==", "!=", "<", "<=", ">", ">="]), int.clone())
            .prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (text(), word(&["==", "!=", "<", ">="]), text()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
        (text(), word(&["startsWith", "endsWith", "contains"]), text())
            .prop_map(|(a, method, b)| format!("{a}.{method}({b})")),
        int.prop_map(|a| format!("{a} in [80, -443, 7]")),
        text().prop_map(|a| format!("{a} in ['a', 'evil.test']")),
    ];
    leaf.prop_recursive(3, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| all.join(" && ")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("({})", all.join(" || "))),
            inner.clone().prop_map(|a| format!("!({a})")),
            (inner.clone(), inner.clone(), inner).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
        ]
    })
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
        protocol in select(vec![Protocol::Tcp, Protocol::Udp]),
        names in subsequence(NAMES.to_vec(), 0..=3),
        said in select(NAMES.to_vec()),
        at in select(MOMENTS.to_vec()),
    ) {
        let compiled = policy.compile().unwrap();
        let address: IpAddr = address.parse().unwrap();
        let (names, said) = (hosts(&names), Host::parse(said).unwrap());
        let flow = Flow { address, port, protocol, names: &names, began: Moment::at(at) };
        prop_assert_eq!(compiled.resolves(&said, Moment::at(at)).is_allowed(), resolves(&policy, &said, at));
        let ask_about = |name, about| ruling(&policy, &Question { address, port, protocol, name, at, about });
        let ask = |name| ask_about(name, About::Best);
        let requests: Vec<(&str, &str)> =
            METHODS.iter().flat_map(|method| PATHS.iter().map(move |path| (*method, *path))).collect();
        for (method, path) in &requests {
            let decided = compiled.decide_request(&flow, &said, &Request::new(method, path));
            if never(&policy, address) || !names.contains(&said) {
                prop_assert!(!decided.is_allowed());
                continue;
            }
            let expected = ask_about(Some(&said), About::Request { method, path });
            let private = matches!(decided, Ruling::Deny { reason: Reason::PrivateName, .. });
            let shown = private || outcome(decided) == expected;
            prop_assert!(shown || expected == Err("default".into()) && !decided.is_allowed(), "{decided:?}");
        }
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
                let of_requests = |allowed: bool| requests.iter().all(|(method, path)| {
                    compiled.decide_request(&flow, &said, &Request::new(method, path)).is_allowed() == allowed
                });
                let worst = |name| ask_about(name, About::Worst);
                match settled {
                    Settled::Decided(decided) if pinned => {
                        let expected = ask(Some(&said));
                        prop_assert_eq!(decided.is_allowed(), expected.is_ok());
                        prop_assert!(!decided.is_allowed() || worst(Some(&said)).is_ok());
                        let private = matches!(decided, Ruling::Deny { reason: Reason::PrivateName, .. });
                        prop_assert!(private || outcome(decided) == expected);
                        prop_assert!(of_requests(decided.is_allowed()), "no request fares differently");
                    }
                    Settled::Decided(decided) => prop_assert_eq!(outcome(decided), Err("host-name".into())),
                    Settled::ByRequest => {
                        prop_assert!(pinned && ask(Some(&said)).is_ok() && worst(Some(&said)).is_err());
                    }
                }
                for said in [Said::Unnamed, Said::Unasked] {
                    prop_assert!(!by_name.settle(said).may_go_on());
                }
                // What is no request fares worst.
                let each: Vec<Outcome> = names.iter().map(|name| worst(Some(name))).chain([worst(None)]).collect();
                let denied = each.iter().any(|one| matches!(one, Err(rule) if rule != "default"));
                let expected = !denied && each.iter().any(Outcome::is_ok);
                prop_assert_eq!(by_name.settle(Said::Other).may_go_on(), expected);
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
        methods in prop::collection::vec("[A-Z]{0,4}|.{0,5}", 0..2),
        paths in prop::collection::vec("/[a-z./%;]{0,10}|.{0,5}", 0..2),
        protocols in prop::collection::vec(select(vec![Protocol::Tcp, Protocol::Udp]), 0..4),
        condition in prop::option::of("(ctx|\\.time|\\.hour|[a-z0-9'\"?:.()!&<>= -]){0,20}|.{0,10}"),
    ) {
        let rule = Rule { name, action: Action::Allow, cidrs, hosts, ports, protocols, methods, paths, condition };
        let policy = Policy { rules: vec![rule.clone()], ..Policy::default() };
        match policy.compile() {
            Ok(_) => prop_assert!(rule.check("x").is_ok()),
            Err(error) => prop_assert!(error.path.starts_with("rules[0]") && !error.allowed.is_empty()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn a_condition_means_what_the_crate_makes_of_it(
        text in expression(),
        at in select(MOMENTS.to_vec()),
        name in select(NAMES.to_vec()),
        user in prop::option::of(select(vec!["a", "evil.test"])),
    ) {
        let subject = Subject { user: user.map(str::to_owned), ..Subject::default() };
        let policy = Policy { context: Some(subject.clone()), ..Policy::default() };
        let (name, address) = (Host::parse(name).unwrap(), "1.1.1.1".parse().unwrap());
        let condition = crate::condition::Condition::parse(&text).unwrap();
        let place = crate::condition::Place { address, port: 443, protocol: "udp" };
        for place in [Some(place), None] {
            let facts =
                crate::condition::Facts { subject: &subject, at: Moment::at(at), host: Some(&name), place, request: None };
            let place = place.map(|place| (address, place.port, Protocol::Udp));
            let expected = truth(&policy, &text, Some(&name), place, at, About::Worst);
            prop_assert_eq!(condition.evaluate(&facts), expected, "{}", text);
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
