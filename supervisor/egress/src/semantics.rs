//! One test for each line of the semantics.

#![allow(clippy::unwrap_used)]

use crate::{Compiled, Flow, Host, Moment, Policy, Protocol, Request, Ruling, Said, Settled, Verdict};

/// A Saturday, 21:56 UTC.
const NOW: i64 = 1_795_298_193;

fn compile(text: &str) -> Compiled {
    serde_json::from_str::<Policy>(text).unwrap().compile().unwrap()
}

fn rules(default: &str, rules: &str) -> Compiled {
    compile(&format!(r#"{{"defaultAction": "{default}", "rules": [{rules}]}}"#))
}

fn hosts(names: &[&str]) -> Vec<Host> {
    names.iter().map(|name| Host::parse(name).unwrap()).collect()
}

fn shown(ruling: Ruling<'_>) -> String {
    match ruling {
        Ruling::Allow { rule } => format!("allow {rule}"),
        Ruling::Deny { rule, reason } => format!("deny {rule} {reason:?}"),
    }
}

fn settled(settled: Settled<'_>) -> String {
    match settled {
        Settled::Decided(ruling) => shown(ruling),
        Settled::ByRequest => "by request".to_owned(),
    }
}

/// `said`: what the client would say if asked; `asked` stands before the answer if it was.
fn flow(policy: &Compiled, destination: &str, names: &[&str], said: Option<&str>) -> String {
    let destination: std::net::SocketAddr = destination.parse().unwrap();
    let names = hosts(names);
    let flow = Flow {
        address: destination.ip(),
        port: destination.port(),
        protocol: Protocol::Tcp,
        names: &names,
        began: Moment::at(NOW),
    };
    let said = said.map(|name| Host::parse(name).unwrap());
    match policy.decide(&flow) {
        Verdict::Decided(ruling) => shown(ruling),
        Verdict::ByName(by_name) => {
            format!("asked, {}", settled(by_name.settle(said.as_ref().map_or(Said::Other, Said::Name))))
        }
    }
}

fn resolves(policy: &Compiled, name: &str) -> String {
    shown(policy.resolves(&Host::parse(name).unwrap(), Moment::at(NOW)))
}

#[test]
fn nothing_is_reached_by_default() {
    let policy = Policy::default().compile().unwrap();
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "deny default Default");
    assert_eq!(resolves(&policy, "example.com"), "deny default Default");
}

#[test]
fn allow_public_does_not_reach_private_networks() {
    let policy = rules("ALLOW_PUBLIC", "");
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "allow default");
    assert_eq!(flow(&policy, "10.0.0.1:443", &["intranet.example"], None), "deny default NotPublic");
    assert_eq!(resolves(&policy, "example.com"), "allow default");
}

#[test]
fn what_is_protected_no_rule_opens() {
    let everything = r#"{"action": "ALLOW", "cidrs": ["0.0.0.0/0", "::/0"]}"#;
    let policy = compile(&format!(r#"{{"rules": [{everything}], "protected": ["10.0.0.0/8", "fd00::/8"]}}"#));
    assert_eq!(flow(&policy, "192.168.0.1:1", &[], None), "allow rules[0]");
    for (closed, rule) in [
        ("127.0.0.1:1", "loopback"),
        ("169.254.169.254:80", "link-local"),
        ("[::ffff:127.0.0.1]:1", "loopback"),
        ("[64:ff9b::7f00:1]:1", "loopback"),
    ] {
        assert!(flow(&policy, closed, &[], None).starts_with(&format!("deny {rule} Protected")), "{closed}");
    }
    assert_eq!(flow(&policy, "10.9.8.7:1", &[], None), "deny protectedNetworks[0] ProtectedNetwork");
    assert_eq!(flow(&policy, "[::ffff:10.9.8.7]:1", &[], None), "deny protectedNetworks[0] ProtectedNetwork");
    assert_eq!(
        flow(&policy, "[64:ff9b::a09:807]:1", &[], None),
        "deny protectedNetworks[0] ProtectedNetwork"
    );
    assert_eq!(flow(&policy, "[fd12::1]:1", &[], None), "deny protectedNetworks[1] ProtectedNetwork");
}

#[test]
fn deny_beats_allow_whatever_the_order() {
    let policy = rules(
        "DENY",
        r#"{"action": "ALLOW", "cidrs": ["10.0.0.0/8"]},
           {"action": "DENY", "cidrs": ["10.1.0.0/16"], "ports": [22], "name": "no-ssh"}"#,
    );
    assert_eq!(flow(&policy, "10.1.0.1:22", &[], None), "deny no-ssh Rule");
    assert_eq!(flow(&policy, "10.1.0.1:80", &[], None), "allow rules[0]");
    assert_eq!(flow(&policy, "10.2.0.1:22", &[], None), "allow rules[0]");
    assert_eq!(flow(&policy, "11.0.0.1:22", &[], None), "deny default Default");
}

#[test]
fn a_deny_finds_ipv4_hidden_in_ipv6_and_an_allow_does_not() {
    let policy = rules(
        "DENY",
        r#"{"action": "ALLOW", "cidrs": ["64:ff9b::/96", "8.8.8.8/32"]}, {"action": "DENY", "cidrs": ["1.1.1.1/32"]}"#,
    );
    assert_eq!(flow(&policy, "[64:ff9b::101:101]:1", &[], None), "deny rules[1] Rule");
    assert_eq!(flow(&policy, "[64:ff9b::102:101]:1", &[], None), "allow rules[0]");
    assert_eq!(flow(&policy, "[2002:808:808::1]:1", &[], None), "deny default Default");
}

const GITHUB: &str = r#"{"action": "ALLOW", "hosts": ["*.github.com", "github.com"], "ports": [443]}"#;

#[test]
fn a_host_rule_goes_by_the_name_that_led_to_the_address() {
    let policy = rules("DENY", GITHUB);
    let names = &["api.github.com"];
    assert_eq!(flow(&policy, "140.82.112.3:443", names, Some("api.github.com")), "asked, allow rules[0]");
    assert_eq!(flow(&policy, "140.82.112.3:443", names, None), "asked, allow rules[0]");
    assert_eq!(flow(&policy, "140.82.112.3:80", names, None), "deny default Default");
    assert_eq!(flow(&policy, "140.82.112.3:443", &[], None), "deny host-name NoName");
    assert_eq!(flow(&policy, "140.82.112.3:443", &["evil.test"], None), "deny default Default");
}

#[test]
fn the_name_that_is_said_must_have_led_to_the_address() {
    let policy = rules("DENY", GITHUB);
    let both = &["api.github.com", "evil.test"];
    assert_eq!(flow(&policy, "1.2.3.4:443", both, Some("github.com")), "asked, deny host-name NameNotPinned");
    assert_eq!(flow(&policy, "1.2.3.4:443", both, Some("evil.test")), "asked, deny default Default");
    assert_eq!(flow(&policy, "1.2.3.4:443", both, Some("api.github.com")), "asked, allow rules[0]");
}

#[test]
fn tls_and_http_without_a_name_are_denied() {
    let policy = rules("DENY", GITHUB);
    let names = hosts(&["github.com"]);
    let flow = Flow {
        address: "1.2.3.4".parse().unwrap(),
        port: 443,
        protocol: Protocol::Tcp,
        names: &names,
        began: Moment::at(NOW),
    };
    assert_eq!(settled(policy.decide_again(&flow, Said::Unnamed)), "deny host-name Unnamed");
    assert_eq!(settled(policy.decide_again(&flow, Said::Unasked)), "deny host-name Unasked");
}

#[test]
fn a_name_does_not_lead_into_the_private_network_unless_cidrs_say_so() {
    let policy = rules("DENY", r#"{"action": "ALLOW", "hosts": ["db.example"]}"#);
    assert_eq!(flow(&policy, "10.0.0.5:5432", &["db.example"], None), "deny rules[0] PrivateName");
    let policy = rules("DENY", r#"{"action": "ALLOW", "hosts": ["db.example"], "cidrs": ["10.0.0.0/24"]}"#);
    assert_eq!(flow(&policy, "10.0.0.5:5432", &["db.example"], None), "asked, allow rules[0]");
    assert_eq!(flow(&policy, "10.0.1.5:5432", &["db.example"], None), "deny default Default");
    assert_eq!(flow(&policy, "10.0.0.5:5432", &["other.example"], None), "deny default Default");
}

#[test]
fn a_host_that_is_denied_is_not_resolved_and_every_flow_is_asked() {
    let policy = rules("ALLOW_PUBLIC", r#"{"action": "DENY", "hosts": ["*.evil.test"]}"#);
    assert_eq!(resolves(&policy, "a.evil.test"), "deny rules[0] Rule");
    assert_eq!(resolves(&policy, "evil.test"), "allow default");
    assert_eq!(flow(&policy, "1.1.1.1:22", &[], None), "asked, allow default");
    assert_eq!(
        flow(&policy, "1.1.1.1:22", &["a.evil.test", "good.example"], None),
        "asked, deny rules[0] Rule"
    );
    assert_eq!(flow(&policy, "1.1.1.1:443", &["good.example"], Some("good.example")), "asked, allow default");
    assert_eq!(
        flow(&policy, "1.1.1.1:443", &["good.example"], Some("a.evil.test")),
        "asked, deny host-name NameNotPinned"
    );
}

#[test]
fn a_host_deny_with_ports_leaves_the_name_and_other_ports_alone() {
    let policy = rules("ALLOW_PUBLIC", r#"{"action": "DENY", "hosts": ["git.example"], "ports": [22]}"#);
    assert_eq!(resolves(&policy, "git.example"), "allow default");
    assert_eq!(flow(&policy, "1.1.1.1:443", &["git.example"], None), "allow default");
    assert_eq!(flow(&policy, "1.1.1.1:22", &["git.example"], None), "asked, deny rules[0] Rule");
}

#[test]
fn names_resolve_only_for_rules_that_need_them() {
    let policy = rules("DENY", GITHUB);
    assert_eq!(resolves(&policy, "codeload.github.com"), "allow rules[0]");
    assert_eq!(resolves(&policy, "secret.evil.test"), "deny default Default");
    for (cidr, expected) in
        [("10.0.0.0/8", "deny default Default"), ("0.0.0.0/0", "allow rules[0]"), ("::/0", "allow rules[0]")]
    {
        let policy = rules("DENY", &format!(r#"{{"action": "ALLOW", "cidrs": ["{cidr}"], "ports": [443]}}"#));
        assert_eq!(resolves(&policy, "a.example"), expected, "{cidr}");
    }
    let policy = rules("DENY", r#"{"action": "ALLOW", "cidrs": ["0.0.0.0/0"], "hosts": ["a.example"]}"#);
    assert_eq!(resolves(&policy, "b.example"), "deny default Default");
}

fn conditional(default: &str, rules: &str) -> Compiled {
    compile(&format!(
        r#"{{"defaultAction": "{default}", "rules": [{rules}],
             "context": {{"workspace": "dev", "uid": "u-1", "space": "lab", "user": "uid 1000"}}}}"#
    ))
}

const ALL: &str = r#""cidrs": ["0.0.0.0/0"]"#;

#[test]
fn a_rule_matches_only_where_its_condition_is_true() {
    let rules = format!(
        r#"{{"action": "ALLOW", {ALL}, "condition": "ctx.time.hour == 21 && ctx.workspace.space == 'lab'"}},
           {{"action": "DENY", {ALL}, "condition": "ctx.request.port == 25 || ctx.user.name != 'uid 1000'"}}"#
    );
    let policy = conditional("DENY", &rules);
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "allow rules[0]");
    assert_eq!(flow(&policy, "1.1.1.1:25", &[], None), "deny rules[1] Rule");
    let later = Flow {
        address: "1.1.1.1".parse().unwrap(),
        port: 443,
        protocol: Protocol::Tcp,
        names: &[],
        began: Moment::at(NOW + 3600),
    };
    assert_eq!(settled(policy.decide_again(&later, Said::Unasked)), "deny default Default");
}

#[test]
fn a_condition_without_an_answer_closes() {
    for failing in [
        "1 / (ctx.time.hour - 21) > 0",
        "ctx.workspace.template == 'x'",
        "ctx.request.port * 9223372036854775807 > 0",
    ] {
        let allow = format!(r#"{{"action": "ALLOW", {ALL}, "condition": "{failing}"}}"#);
        assert_eq!(
            flow(&conditional("DENY", &allow), "1.1.1.1:80", &[], None),
            "deny default Default",
            "{failing}"
        );
        let deny = format!(r#"{{"action": "DENY", {ALL}, "condition": "{failing}"}}"#);
        assert_eq!(flow(&conditional("ALLOW_PUBLIC", &deny), "1.1.1.1:80", &[], None), "deny rules[0] Rule");
    }
}

#[test]
fn a_rule_behind_a_condition_is_still_found() {
    let policy = conditional(
        "DENY",
        &format!(
            r#"{{"action": "ALLOW", {ALL}, "condition": "false", "name": "never"}},
               {{"action": "ALLOW", {ALL}, "ports": [443], "name": "https"}},
               {{"action": "ALLOW", {ALL}, "condition": "true", "name": "late"}}"#
        ),
    );
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "allow https");
    assert_eq!(flow(&policy, "1.1.1.1:80", &[], None), "allow late");
}

#[test]
fn a_condition_on_the_host_makes_a_rule_go_by_host() {
    let allow = r#"{"action": "ALLOW", "cidrs": ["1.0.0.0/8"], "condition": "ctx.request.host.endsWith('.a.example')"}"#;
    let policy = conditional("DENY", allow);
    let name = &["x.a.example"];
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "deny default Default");
    assert_eq!(flow(&policy, "1.1.1.1:443", name, Some("x.a.example")), "asked, allow rules[0]");
    assert_eq!(
        flow(&policy, "1.1.1.1:443", name, Some("y.a.example")),
        "asked, deny host-name NameNotPinned"
    );
    assert_eq!(resolves(&policy, "x.a.example"), "allow rules[0]");
    assert_eq!(resolves(&policy, "a.example"), "deny default Default");
    let deny = format!(r#"{{"action": "DENY", {ALL}, "condition": "ctx.request.host == 'evil.test'"}}"#);
    let policy = conditional("ALLOW_PUBLIC", &deny);
    assert_eq!(flow(&policy, "1.1.1.1:443", &["evil.test"], Some("evil.test")), "asked, deny rules[0] Rule");
    assert_eq!(flow(&policy, "1.1.1.1:443", &["good.test"], Some("good.test")), "asked, allow default");
    assert_eq!(flow(&policy, "1.1.1.1:443", &[], None), "asked, allow default");
}

#[test]
fn a_name_resolves_if_a_flow_to_it_could_be_allowed() {
    let rule = |condition: &str| {
        format!(r#"{{"action": "ALLOW", "hosts": ["a.example"], "condition": "{condition}"}}"#)
    };
    for (condition, resolved) in [
        ("ctx.time.hour == 21", true),
        ("ctx.time.hour == 22", false),
        ("ctx.request.port == 443", true),
        ("ctx.time.hour == 22 && ctx.request.port == 443", false),
        ("ctx.time.hour == 22 || ctx.request.port == 443", true),
        ("ctx.workspace.template == 'x'", false),
    ] {
        let policy = conditional("DENY", &rule(condition));
        assert_eq!(resolves(&policy, "a.example").starts_with("allow"), resolved, "{condition}");
        let deny = rule(condition).replace("ALLOW", "DENY");
        let refused = !condition.contains("port") && resolved || condition.contains("template");
        let policy = conditional("ALLOW_PUBLIC", &deny);
        assert_eq!(resolves(&policy, "a.example").starts_with("deny"), refused, "{condition}");
    }
}

#[test]
fn one_decision_asks_no_more_than_it_may_and_then_closes() {
    let long = vec!["ctx.request.host.contains('xxxxxxxxxxxxxxxx')"; 40].join(" || ");
    let names: Vec<String> = (0..4_096).map(|n| format!("n{n}.a.example")).collect();
    let names = hosts(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let (address, began) = ("1.1.1.1".parse().unwrap(), Moment::at(NOW));
    let flow = Flow { address, port: 443, protocol: Protocol::Tcp, names: &names, began };
    let rule = |action: &str, condition: &str| {
        format!(r#"{{"action": "{action}", "cidrs": ["0.0.0.0/0"], "condition": "{condition}"}}"#)
    };
    // The last name would be allowed, but nobody asks that long.
    let allowed = format!("{long} || ctx.request.host == 'n4095.a.example'");
    let policy = conditional("DENY", &rule("ALLOW", &allowed));
    assert!(matches!(policy.decide(&flow), Verdict::Decided(Ruling::Deny { .. })));
    let few = Flow { names: &names[4_090..], ..flow };
    assert!(matches!(policy.decide(&few), Verdict::ByName(_)));
    let policy = conditional("ALLOW_PUBLIC", &vec![rule("DENY", &long); 100].join(","));
    assert_eq!(settled(policy.decide_again(&few, Said::Name(&names[4_090]))), "deny rules[68] Rule");
    // What does not go by host is asked once for all names.
    let rules = [rule("DENY", "ctx.request.port == 25"), rule("ALLOW", "ctx.time.hour == 21")].join(",");
    assert_eq!(settled(conditional("DENY", &rules).decide_again(&flow, Said::Other)), "allow rules[1]");
}

/// A request to a public address that `name` led to.
fn request(policy: &Compiled, name: &str, port: u16, method: &str, path: &str) -> String {
    let names = hosts(&[name]);
    let flow = Flow {
        address: "1.2.3.4".parse().unwrap(),
        port,
        protocol: Protocol::Tcp,
        names: &names,
        began: Moment::at(NOW),
    };
    shown(policy.decide_request(&flow, &names[0], &Request::new(method, path)))
}

const ACME: &str =
    r#"{"action": "ALLOW", "hosts": ["git.example"], "methods": ["GET", "POST"], "paths": ["/acme"]}"#;

#[test]
fn a_rule_with_methods_and_paths_is_for_requests() {
    let policy = rules("DENY", ACME);
    let name = &["git.example"];
    assert_eq!(resolves(&policy, "git.example"), "allow rules[0]");
    assert_eq!(flow(&policy, "1.2.3.4:443", name, Some("git.example")), "asked, by request");
    assert_eq!(flow(&policy, "1.2.3.4:22", name, None), "asked, deny default NotHttp");
    let ask = |method, path| request(&policy, "git.example", 443, method, path);
    assert_eq!(ask("GET", "/acme/x"), "allow rules[0]");
    assert_eq!(ask("DELETE", "/acme/x"), "deny default Request");
    assert_eq!(ask("GET", "/acmeevil"), "deny default Request");
    assert_eq!(ask("GET", "/acme/../x"), "deny default Path(\"the path has '.' or '..' as a segment\")");
    assert_eq!(request(&policy, "evil.example", 443, "GET", "/acme"), "deny default Default");
}

#[test]
fn a_deny_by_request_beats_every_allow_and_leaves_other_requests_alone() {
    let deny = r#"{"action": "DENY", "hosts": ["*.example"], "methods": ["DELETE"], "name": "keep", "ports": [443]}"#;
    for open in ["ALLOW_PUBLIC", "DENY"] {
        let policy =
            rules(open, &format!(r#"{{"action": "ALLOW", "hosts": ["git.example"]}}, {deny}, {ACME}"#));
        assert_eq!(resolves(&policy, "git.example"), "allow rules[0]", "the name is not what is denied");
        let name = &["git.example"];
        assert_eq!(flow(&policy, "1.2.3.4:443", name, Some("git.example")), "asked, by request");
        assert_eq!(
            flow(&policy, "1.2.3.4:443", name, None),
            "asked, deny keep NotHttp",
            "what could hide a request"
        );
        let on_80 = flow(&policy, "1.2.3.4:80", name, Some("git.example"));
        assert!(
            on_80.ends_with("allow rules[0]") || on_80 == "allow default",
            "{on_80}: nothing to look into"
        );
        assert_eq!(request(&policy, "git.example", 443, "DELETE", "/acme"), "deny keep Rule");
        assert_eq!(request(&policy, "git.example", 443, "delete", "/acme"), "deny keep Rule");
        assert_eq!(request(&policy, "git.example", 443, "PUT", "/else"), "allow rules[0]");
        assert_eq!(request(&policy, "git.example", 80, "DELETE", "/acme"), "allow rules[0]");
    }
}

#[test]
fn a_path_that_can_be_read_in_two_ways_is_denied_where_a_rule_goes_by_paths() {
    let policy = rules(
        "ALLOW_PUBLIC",
        r#"{"action": "DENY", "hosts": ["a.example"], "paths": ["/admin"], "name": "admin"},
           {"action": "DENY", "hosts": ["b.example"], "methods": ["DELETE"]}"#,
    );
    for path in
        ["/x/../admin", "/%2e%2e/admin", "//admin", "/x;/admin", "/x%2Fadmin", "/x\\admin", "/%c0%ae", "/%00"]
    {
        let denied = request(&policy, "a.example", 443, "GET", path);
        assert!(denied.starts_with("deny admin Path("), "{path}: {denied}");
        assert_eq!(request(&policy, "b.example", 443, "GET", path), "allow default", "{path}");
    }
    assert_eq!(request(&policy, "a.example", 443, "GET", "/%61dmin/x"), "deny admin Rule");
    assert_eq!(request(&policy, "a.example", 443, "GET", "/administrator"), "allow default");
}

#[test]
fn a_condition_on_the_request_makes_a_rule_go_by_request() {
    let allow = |condition: &str| {
        format!(r#"{{"action": "ALLOW", "hosts": ["a.example"], "condition": "{condition}"}}"#)
    };
    let policy =
        conditional("DENY", &allow("ctx.request.method == 'GET' && ctx.request.path.endsWith('.tar.gz')"));
    assert_eq!(resolves(&policy, "a.example"), "allow rules[0]");
    assert_eq!(flow(&policy, "1.1.1.1:443", &["a.example"], Some("a.example")), "asked, by request");
    assert_eq!(request(&policy, "a.example", 443, "GET", "/x.tar.gz"), "allow rules[0]");
    assert_eq!(request(&policy, "a.example", 443, "PUT", "/x.tar.gz"), "deny default Request");
    assert!(request(&policy, "a.example", 443, "GET", "//x.tar.gz").starts_with("deny default Path"));
    // What is settled without the request needs none.
    let policy = conditional("DENY", &allow("ctx.time.hour == 22 && ctx.request.method == 'GET'"));
    assert_eq!(flow(&policy, "1.1.1.1:443", &["a.example"], Some("a.example")), "deny default Default");
    let deny = allow("ctx.request.path == '/x'").replace("ALLOW", "DENY");
    let policy = conditional("ALLOW_PUBLIC", &deny);
    assert_eq!(request(&policy, "a.example", 443, "GET", "/x"), "deny rules[0] Rule");
    assert_eq!(request(&policy, "a.example", 443, "GET", "/y"), "allow default");
    assert!(request(&policy, "a.example", 443, "GET", "/y//").starts_with("deny rules[0]"));
}

#[test]
fn of_the_nodes_own_services_only_requests_are_denied() {
    let policy = rules(
        "DENY",
        r#"{"action": "DENY", "hosts": ["host.cordium.internal"], "name": "all"},
           {"action": "DENY", "hosts": ["host.cordium.internal"], "paths": ["/private"], "ports": [80], "name": "private"}"#,
    );
    let names = hosts(&["host.cordium.internal"]);
    let decide = |port, request: Option<(&str, &str)>| {
        let flow = Flow {
            address: "100.127.255.253".parse().unwrap(),
            port,
            protocol: Protocol::Tcp,
            names: &names,
            began: Moment::at(NOW),
        };
        let request = request.map(|(method, path)| Request::new(method, path));
        settled(policy.decide_mapped(&flow, &names[0], request.as_ref()))
    };
    assert_eq!(decide(81, None), "allow host-ports");
    assert_eq!(decide(80, None), "by request");
    assert_eq!(decide(80, Some(("GET", "/x"))), "allow host-ports");
    assert_eq!(decide(80, Some(("GET", "/private/x"))), "deny private Rule");
    assert_eq!(decide(80, Some(("GET", "/x//"))), "deny private Rule");
}

/// What becomes of a datagram: it says no name.
fn datagram(policy: &Compiled, destination: &str, names: &[&str]) -> String {
    let destination: std::net::SocketAddr = destination.parse().unwrap();
    let names = hosts(names);
    settled(policy.decide_again(
        &Flow {
            address: destination.ip(),
            port: destination.port(),
            protocol: Protocol::Udp,
            names: &names,
            began: Moment::at(NOW),
        },
        Said::Other,
    ))
}

#[test]
fn udp_is_open_only_where_an_allow_names_it() {
    let everything = r#"{"action": "ALLOW", "cidrs": ["0.0.0.0/0", "::/0"], "hosts": []}"#;
    for policy in [rules("ALLOW_PUBLIC", ""), rules("DENY", everything), rules("ALLOW_PUBLIC", everything)] {
        assert_eq!(datagram(&policy, "1.1.1.1:123", &["a.example"]), "deny default Udp");
        assert_eq!(datagram(&policy, "[2606:4700::1111]:443", &[]), "deny default Udp");
    }
    let policy = rules(
        "DENY",
        r#"{"action": "ALLOW", "cidrs": ["1.1.1.0/24"], "ports": [123], "protocols": ["UDP"], "name": "ntp"},
           {"action": "ALLOW", "cidrs": ["8.8.8.0/24"], "protocols": ["TCP", "UDP"], "name": "both"}"#,
    );
    assert_eq!(datagram(&policy, "1.1.1.1:123", &[]), "allow ntp");
    assert_eq!(datagram(&policy, "[::ffff:1.1.1.1]:123", &[]), "allow ntp");
    assert_eq!(datagram(&policy, "1.1.1.1:124", &[]), "deny default Udp");
    assert_eq!(datagram(&policy, "1.1.2.1:123", &[]), "deny default Udp");
    assert_eq!(flow(&policy, "1.1.1.1:123", &[], None), "deny default Default");
    assert_eq!(datagram(&policy, "8.8.8.8:443", &[]), "allow both");
    assert_eq!(flow(&policy, "8.8.8.8:443", &[], None), "allow both");
}

#[test]
fn a_deny_without_protocols_is_for_udp_too_and_one_with_is_for_those() {
    let policy = rules(
        "DENY",
        r#"{"action": "ALLOW", "cidrs": ["0.0.0.0/0"], "protocols": ["TCP", "UDP"], "name": "all"},
           {"action": "DENY", "cidrs": ["1.1.1.0/24"], "name": "none"},
           {"action": "DENY", "cidrs": ["1.1.2.0/24"], "protocols": ["UDP"], "name": "no-udp"},
           {"action": "DENY", "cidrs": ["1.1.3.0/24"], "protocols": ["TCP"], "name": "no-tcp"},
           {"action": "DENY", "cidrs": ["1.1.4.0/24"], "condition": "ctx.request.protocol == 'udp'", "name": "if-udp"}"#,
    );
    for (address, udp, tcp) in [
        ("1.1.1.1:1", "deny none Rule", "deny none Rule"),
        ("1.1.2.1:1", "deny no-udp Rule", "allow all"),
        ("1.1.3.1:1", "allow all", "deny no-tcp Rule"),
        ("1.1.4.1:1", "deny if-udp Rule", "allow all"),
    ] {
        assert_eq!(datagram(&policy, address, &[]), udp, "{address}");
        assert_eq!(flow(&policy, address, &[], None), tcp, "{address}");
    }
}

#[test]
fn a_datagram_is_placed_under_a_name_by_what_was_resolved_and_nothing_else() {
    let policy = rules(
        "DENY",
        r#"{"action": "ALLOW", "hosts": ["time.example"], "ports": [123], "protocols": ["UDP"], "name": "ntp"},
           {"action": "DENY", "hosts": ["evil.example"], "protocols": ["UDP"], "name": "evil"}"#,
    );
    assert_eq!(datagram(&policy, "1.1.1.1:123", &["time.example"]), "allow ntp");
    assert_eq!(datagram(&policy, "1.1.1.1:123", &["other.example", "time.example"]), "allow ntp");
    assert_eq!(datagram(&policy, "1.1.1.1:123", &[]), "deny host-name NoName");
    assert_eq!(datagram(&policy, "1.1.1.1:123", &["time.example", "evil.example"]), "deny evil Rule");
    assert_eq!(datagram(&policy, "10.0.0.1:123", &["time.example"]), "deny ntp PrivateName");
    // A name is looked up for either protocol, and refused only where both are denied.
    assert_eq!(resolves(&policy, "time.example"), "allow ntp");
    assert_eq!(resolves(&policy, "evil.example"), "deny default Default");
    let policy = rules("ALLOW_PUBLIC", r#"{"action": "DENY", "hosts": ["a.example"], "protocols": ["UDP"]}"#);
    assert_eq!(resolves(&policy, "a.example"), "allow default");
    let both = r#"{"action": "DENY", "hosts": ["a.example"], "protocols": ["UDP", "TCP"]}"#;
    assert_eq!(resolves(&rules("ALLOW_PUBLIC", both), "a.example"), "deny rules[0] Rule");
}

#[test]
fn what_is_protected_no_rule_opens_for_udp() {
    let everything = r#"{"action": "ALLOW", "cidrs": ["0.0.0.0/0", "::/0"], "protocols": ["UDP"]}"#;
    let policy = compile(&format!(r#"{{"rules": [{everything}], "protected": ["10.0.0.0/8"]}}"#));
    assert_eq!(datagram(&policy, "192.168.0.1:1", &[]), "allow rules[0]");
    for closed in
        ["127.0.0.1:53", "169.254.169.254:80", "255.255.255.255:67", "224.0.0.251:5353", "[ff02::fb]:5353"]
    {
        assert!(datagram(&policy, closed, &[]).contains("Protected"), "{closed}");
    }
    assert_eq!(datagram(&policy, "10.9.8.7:1", &[]), "deny protectedNetworks[0] ProtectedNetwork");
}
