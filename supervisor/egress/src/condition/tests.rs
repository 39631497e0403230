//! What is read, what is refused and where, and that nothing of it takes more than it may.

#![allow(clippy::unwrap_used)]

use super::*;

/// Half of what a thread has.
const STACK: usize = 1 << 20;

fn on_a_small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(STACK).spawn(run).unwrap().join().unwrap()
}

fn refused(text: &str) -> String {
    Condition::parse(text).unwrap_err().to_string()
}

#[test]
fn errors_say_where_and_what_helps() {
    for (text, expected) in [
        ("", "was the end at line 1, column 1; allowed: a value"),
        (
            "ctx.request.hots == 'a'",
            "was \"ctx.request.hots\" at line 1, column 13; allowed: ctx.request.host, ",
        ),
        ("true &&\n  ctx.time.hour == '8'", "was a string at line 2, column 20; allowed: a number"),
        ("ctx.time.hour", "was a number at line 1, column 10; allowed: something that is true or false"),
        ("1 + 1", "was a number at line 1, column 3; allowed: something that is true"),
        ("ctx.request == ctx.time", "was \"ctx.request\" at line 1, column 5; allowed: ctx.workspace.name, "),
        ("user == 'a'", "was \"user\" at line 1, column 1; allowed: ctx.workspace.name, "),
        ("has(ctx.request.port)", "was has(ctx.request.port) at line 1, column 17; allowed: has of ctx"),
        ("has(true)", "was has at line 1, column 1; allowed: has(ctx.user.name)"),
        ("ctx.user.name.matches('a+')", "was \"matches\" at line 1, column 15; allowed: startsWith"),
        ("['a'].all(x, x == 'a')", "was \"all\" at line 1, column 7; allowed: startsWith"),
        ("[80].exists(x, x == 80)", "was \"exists\" at line 1, column 6; allowed: startsWith"),
        ("size(ctx.user.name) > 3", "was \"size\" at line 1, column 1; allowed: has"),
        ("ctx.time.hour in ctx.request.port", "was no list at line 1, column 30; allowed: a list"),
        ("1 in [1, ctx.time.hour]", "was no literal at line 1, column 19; allowed: literals"),
        ("1 in [1, 'a']", "was a string at line 1, column 10; allowed: a number"),
        ("[1] == [1]", "was a list at line 1, column 1; allowed: a list on the right of in"),
        ("'a' + 'b' == 'ab'", "was a string at line 1, column 1; allowed: a number"),
        ("true < false", "was a condition at line 1, column 1; allowed: numbers or strings"),
        ("!!true", "was \"!\" at line 1, column 2; allowed: a value after one sign"),
        ("ctx.request.host['a']", "was \"[\" at line 1, column 17; allowed: an operator or the end"),
        ("{'a': 1}.a == 1", "was '{' at line 1, column 1; allowed: names"),
        ("(true", "was the end at line 1, column 6; allowed: )"),
        ("null == null", "was \"null\" at line 1, column 1; allowed: a value"),
        (
            "9223372036854775808 > 0",
            "was the number 9223372036854775808 at line 1, column 1; allowed: a whole",
        ),
        ("ctx.user.name == r'a'", "was a string at line 1, column 19; allowed: an operator or the end"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
    assert!(Condition::parse("-9223372036854775808 < 0").is_ok());
}

#[test]
fn sizes_and_depths_are_bounded_wherever_they_come_from() {
    let nested = |open: &str, inner: &str, close: &str, count: usize| {
        format!("{}{inner}{}", open.repeat(count), close.repeat(count))
    };
    let chain = |one: &str, sign: &str, count: usize| vec![one; count].join(sign);
    for (fits, does_not, allowed) in [
        (nested("(", "true", ")", 16), nested("(", "true", ")", 17), "at most 16 levels"),
        (nested("!(", "true", ")", 16), nested("!(", "true", ")", 2_000), "at most"),
        (
            nested("true ? (", "true", ") : false", 8),
            nested("true ? (", "true", ") : false", 100),
            "at most 16 levels",
        ),
        (
            nested("true ? true : ", "true", "", 16),
            nested("true ? true : ", "true", "", 200),
            "at most 16 levels",
        ),
        (chain("true", " && ", 128), chain("true", " && ", 300), "at most 256 operators"),
        (chain("1", " + ", 16) + " > 0", chain("1", " + ", 17) + " > 0", "at most 16 in a row"),
        (
            format!("1 in [{}]", chain("1", ",", 250)),
            format!("1 in [{}]", chain("1", ",", 300)),
            "at most 256 operators",
        ),
        ("'a' == 'a'".into(), format!("'{}' == 'a'", "a".repeat(4_090)), "at most 4096 bytes"),
        ("true".into(), chain("a", ".", 2_000), "at most 1024 words and signs"),
        ("true".into(), chain("a", ".", 400), "fewer names"),
        ("true".into(), nested("[", "", "]", 300), "at most 16 levels"),
        ("true".into(), nested("f(", "", ")", 300), "at most 16 levels"),
        ("true".into(), nested("a.f(", "", ")", 150), "at most 16 levels"),
        ("true".into(), "-".repeat(900), "a value after one sign"),
        ("true".into(), "(".repeat(900), "at most 16 levels"),
    ] {
        on_a_small_stack(move || {
            Condition::parse(&fits).unwrap_or_else(|error| panic!("{fits}\n{error}"));
            let error = refused(&does_not);
            assert!(error.contains(allowed), "{does_not}\n{error}");
        });
    }
}

#[test]
fn the_deepest_condition_is_answered_on_a_small_stack() {
    // Each level: a negation, a comparison, and a chain of sums on the left.
    let mut text = "ctx.time.hour == 1".to_owned();
    for _ in 0..12 {
        text = format!("!({text})");
    }
    let sums = vec!["ctx.request.port"; 15].join(" + ");
    let text = format!("({text}) == (((({sums}) * 2 - 1) * 2 - 1) > 0 || ctx.request.host.contains('b'))");
    on_a_small_stack(move || {
        let condition = Condition::parse(&text).unwrap();
        let place = Place { address: "1.1.1.1".parse().unwrap(), port: 7, protocol: "tcp" };
        let (subject, host) = (Subject::default(), crate::Host::parse("a.example").unwrap());
        let facts = Facts {
            subject: &subject,
            at: Moment::at(3_600),
            host: Some(&host),
            place: Some(place),
            request: None,
        };
        assert_eq!(condition.evaluate(&facts), Some(true));
    });
}

#[test]
fn what_it_asks_for_is_known() {
    let uses = |text: &str| {
        let condition = Condition::parse(text).unwrap();
        (condition.by_host(), condition.by_place(), condition.nodes())
    };
    assert_eq!(uses("ctx.time.hour == 8"), (false, false, 5));
    assert_eq!(uses("ctx.request.host == 'a' || ctx.request.port == 1"), (true, true, 11));
    assert_eq!(uses("has(ctx.user.name) && ctx.request.protocol == 'tcp'"), (false, true, 9));
}
