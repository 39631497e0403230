#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::EXAMPLE;

fn workspace(text: &str) -> Result<Resource<WorkspaceSpec>, SpecError> {
    match parse_document(text)? {
        Document::Workspace(resource) => Ok(resource),
        other => panic!("{:?}", other.kind()),
    }
}

/// A document with this below `spec:`.
fn with_spec(spec: &str) -> String {
    format!("{{apiVersion: cordium/v1, kind: Workspace, metadata: {{name: x}}, spec: {spec}}}")
}

#[test]
fn the_example_survives_a_round_trip() {
    let parsed = workspace(EXAMPLE).unwrap();
    assert_eq!(parsed.spec.applications.len(), 2);
    assert_eq!(parsed.spec.runtime.tasks.len(), 4);
    let json = serde_json::to_string(&parsed.spec).unwrap();
    let again = parse_workspace_json(&json).unwrap();
    assert_eq!(again, parsed.spec);
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
    let yaml = serde_saphyr::to_string(&parsed.spec).unwrap();
    assert_eq!(parse_workspace_json(&yaml).unwrap(), parsed.spec);
}

#[test]
fn json_and_yaml_are_read_alike() {
    let json = r#"{"apiVersion":"cordium/v1","kind":"Workspace","metadata":{"name":"x"},
        "spec":{"runtime":{"envVars":[{"key":"A","value":"\ud83d\ude00\/\u0009"}]},"isEphemeral":true}}"#;
    let parsed = workspace(json).unwrap();
    assert_eq!(parsed.spec.runtime.env_vars[0].value.as_deref(), Some("😀/\t"));
    assert!(parsed.spec.is_ephemeral);
    let flow = with_spec(r#"{isEphemeral: true, runtime: {envVars: [{key: A, value: "😀/\t"}]}}"#);
    assert_eq!(workspace(&flow).unwrap().spec, parsed.spec);
}

#[test]
fn other_kinds_are_read() {
    let template =
        "apiVersion: cordium/v1\nkind: Template\nmetadata: {name: t}\nspec: {vars: [{name: A, value: ''}]}";
    assert!(matches!(parse_document(template).unwrap(), Document::Template(_)));
    let space = "apiVersion: cordium/v1\nkind: Space\nmetadata: {name: s}\nspec:\n  limit:\n    maxLimit: {pids: 100}\n  authorization: {disableSSH: true}";
    let Document::Space(space) = parse_document(space).unwrap() else { panic!("not a space") };
    assert!(space.spec.authorization.disable_ssh);
    assert_eq!(space.spec.limit.max_limit.pids, Some(100));
    assert!(parse_space_json("{\"authorization\":{\"disableSSH\":true}}").is_ok());
    assert!(parse_template_json("repository: {url: 'https://a.example/b'}").is_ok());
}

#[test]
fn null_is_the_same_as_nothing() {
    let spec = parse_workspace_json("image:\nruntime:\n  tasks:\n  cmd: ~\nlimit: null").unwrap();
    assert_eq!(spec, WorkspaceSpec::default());
}

#[test]
fn anchors_and_merge_keys_work() {
    let spec = parse_workspace_json(
        "runtime:\n  tasks:\n  - &t {name: a, run: echo, type: POST_START}\n  - {<<: *t, name: b}\n",
    )
    .unwrap();
    assert_eq!(spec.runtime.tasks[1].run, "echo");
    assert_eq!(spec.runtime.tasks[1].name, "b");
}

#[test]
fn faults_name_the_field_the_value_and_what_is_allowed() {
    for (spec, expected) in [
        (
            "{runtime: {tasks: [{run: x, type: FOO}]}}",
            r#"spec.runtime.tasks[0].type: was "FOO"; allowed: ON_CREATE, POST_START, PRE_STOP"#,
        ),
        (
            "{runtime: {tasks: [{run: x}]}}",
            "spec.runtime.tasks[0].type: missing; allowed: ON_CREATE, POST_START, PRE_STOP",
        ),
        (
            "{runtime: {autostop: true}}",
            "spec.runtime.autostop: unknown field; did you mean \"autoStop\"? allowed: envVars, tasks,",
        ),
        (r#"{"﹔\"": 1}"#, "spec.﹔\\\": unknown field; allowed: image"),
        ("{zebra: 1}", "spec.zebra: unknown field; allowed: image, repository,"),
        (
            "{limit: {cpu: {millicores: two}}}",
            r#"spec.limit.cpu.millicores: was "two"; allowed: a whole number"#,
        ),
        (
            "{limit: {cpu: {millicores: -1}}}",
            "spec.limit.cpu.millicores: was -1; allowed: a whole number, not negative",
        ),
        ("{limit: {cpu: {millicores: 1.5}}}", "spec.limit.cpu.millicores: was 1.5; allowed: a whole number"),
        ("{limit: {cpu: [1500]}}", "spec.limit.cpu: was a list of 1; allowed: a mapping"),
        ("{limit: 7}", "spec.limit: was 7; allowed: a mapping"),
        ("[1]", "spec: was a list of 1; allowed: a mapping"),
        ("{runtime: {tasks: {a: b}}}", r#"spec.runtime.tasks: was a mapping with "a"; allowed: a list"#),
        ("{runtime: {autoStop: yes}}", r#"spec.runtime.autoStop: was "yes"; allowed: true or false"#),
        (
            "{runtime: {envVars: [{key: PORT, value: 8080}]}}",
            "spec.runtime.envVars[0].value: was 8080; allowed: text (put it in quotes)",
        ),
        (
            "{applications: [{name: a, port: 1048576}]}",
            "spec.applications[0].port: was 1048576; allowed: a whole number from 1 to 65535",
        ),
        (
            "{image: alpine}",
            r#"spec.image: was "alpine"; allowed: a mapping with exactly one of registry, dockerfile, git, repository"#,
        ),
        (
            "{image: {registry: {url: a}, git: {url: b}}}",
            r#"spec.image: was a mapping with "git", "registry"; allowed: a mapping with exactly one of registry"#,
        ),
        (
            "{image: {oci: {url: a}}}",
            r#"spec.image: was "oci"; allowed: registry, dockerfile, git, repository"#,
        ),
        ("{image: {registry: {}}}", "spec.image.registry.url: missing; allowed: text"),
        ("{image: {registry: {uri: a}}}", "spec.image.registry.uri: unknown field; did you mean \"url\"?"),
        (
            "{runtime: {tasks: [{run: x, type: PRE_STOP, timeout: soon}]}}",
            r#"spec.runtime.tasks[0].timeout: was "soon"; allowed: a time such as 90s"#,
        ),
        (
            "{runtime: {tasks: [{run: x, type: PRE_STOP, timeout: 90}]}}",
            "spec.runtime.tasks[0].timeout: was 90; allowed: a time such as 90s",
        ),
        (
            "{runtime: {network: {egress: {rules: [{cidrs: [10.0.0.0/8]}]}}}}",
            "spec.runtime.network.egress.rules[0].action: missing; allowed: ALLOW, DENY",
        ),
        (
            "{runtime: {timeout: {mode: NEVER}}}",
            r#"spec.runtime.timeout.mode: was "NEVER"; allowed: MODE_UNSET, DEFAULT"#,
        ),
        ("{vars: [{name: A}]}", "spec.vars[0].value: missing; allowed: text"),
    ] {
        let error = workspace(&with_spec(spec)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{spec}\n got {error}\nwant {expected}");
    }
}

#[test]
fn the_envelope_is_checked_first() {
    for (text, expected) in [
        ("kind: Workspace", "apiVersion: missing; allowed: cordium/v1"),
        ("{apiVersion: v1, kind: Workspace}", "apiVersion: was \"v1\"; allowed: cordium/v1"),
        ("{apiVersion: cordium/v1}", "kind: missing; allowed: Workspace, Template, Space"),
        ("{apiVersion: cordium/v1, kind: Pod}", "kind: was \"Pod\"; allowed: Workspace, Template, Space"),
        ("{apiVersion: cordium/v1, kind: Space}", "metadata.name: missing"),
        (
            "{apiVersion: cordium/v1, kind: Workspace, status: {}}",
            "status: unknown field; allowed: apiVersion, kind",
        ),
        (
            "{apiVersion: cordium/v1, kind: Workspace, metadata: {name: A_b}}",
            "metadata.name: was \"A_b\"; allowed: 1 to 63",
        ),
        (
            "{apiVersion: cordium/v1, kind: Workspace, metadata: {Name: a}}",
            "metadata.Name: unknown field; did you mean \"name\"?",
        ),
        ("[]", "was not a mapping; allowed: apiVersion, kind, metadata, spec"),
        ("", "was empty; allowed: a YAML or JSON mapping"),
        ("  \n", "was empty"),
    ] {
        let error = parse_document(text).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{text}\n got {error}\nwant {expected}");
    }
}

#[test]
fn hostile_text_is_refused() {
    let billion_laughs = (1..12).fold("a0: &a0 [lol, lol, lol]\n".to_string(), |text, i| {
        let previous = format!("*a{}", i - 1);
        text + &format!("a{i}: &a{i} [{}]\n", vec![previous; 10].join(", "))
    });
    let long_alias = format!("a: &a {}\nb: [{}]\n", "x".repeat(60_000), vec!["*a"; 500].join(", "));
    let cases: Vec<(&str, String, &str)> = vec![
        ("1 MiB and a byte", "#".repeat((1 << 20) + 1), "at most 1 MiB"),
        ("billion laughs", billion_laughs, "too large once aliases are expanded"),
        ("one long alias many times", long_alias, "too large once aliases are expanded"),
        ("deep flow yaml", "[".repeat(100_000), ""),
        ("deep flow mappings", "{a: ".repeat(50_000), ""),
        ("deep block yaml", (0..700).fold(String::new(), |t, i| t + &" ".repeat(i) + "a:\n"), ""),
        ("deep json", "{\"a\":".repeat(100_000), ""),
        ("deep but closed json", format!("{{\"a\":{}{}}}", "[".repeat(60), "]".repeat(60)), "32 levels deep"),
        ("recursive anchor", "a: &a [*a]".into(), ""),
        ("unknown alias", "a: *b".into(), ""),
        ("two documents", "isEphemeral: true\n---\nisEphemeral: false".into(), "more than one document"),
        ("many documents", "---\n".repeat(100_000), ""),
        (
            "duplicate yaml key",
            "isEphemeral: true\nisEphemeral: false".into(),
            "the field \"isEphemeral\" is there twice (line 2, column 1)",
        ),
        ("duplicate json key", r#"{"isEphemeral":true,"isEphemeral":false}"#.into(), "isEphemeral"),
        ("duplicate null key", r#"{"isEphemeral":null,"isEphemeral":false}"#.into(), "isEphemeral"),
        ("many values", format!("vars: [{}]", "1,".repeat(200_000)), ""),
        ("many json values", format!("{{\"vars\":[{}1]}}", "1,".repeat(200_000)), "values"),
        ("not a number", "limit: {cpu: {millicores: .nan}}".into(), ""),
        ("infinite", "limit: {cpu: {millicores: 1e999}}".into(), ""),
        ("huge number", "limit: {cpu: {millicores: 99999999999999999999999999}}".into(), ""),
        ("tabs", "runtime:\n\ttasks: []".into(), ""),
        ("a tag", "isEphemeral: !!python/object:os.system [x]".into(), ""),
        ("a mapping as key", "{{a: b}: c}".into(), ""),
        ("control character", "runtime: {cmd: \"a\\0b\"}".into(), "spec.runtime.cmd"),
        ("unclosed quote", "runtime: {cmd: \"a".into(), "not readable as YAML"),
        ("1 MiB of quotes", "\"".repeat(1 << 20), ""),
        ("1 MiB of ampersands", "&a ".repeat(349_525), ""),
        ("1 MiB of question marks", "? ".repeat(1 << 19), ""),
        ("1 MiB of dashes", "- ".repeat(1 << 19), ""),
        ("1 MiB of one key", format!("{}: 1", "k".repeat((1 << 20) - 10)), ""),
    ];
    for (name, text, expected) in cases {
        let error = parse_workspace_json(&text).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(error.len() < 1500, "{name}: {} bytes of error", error.len());
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,300}") {
        let _ = parse_document(&text);
        let _ = parse_workspace_json(&text);
    }

    #[test]
    fn yaml_like_text_is_read_or_refused(text in "([a-z]{1,3}|: |- |\\n|  |\\[|\\]|\\{|\\}|\"|'|&a |\\*a|<<|!!|#|,|\\||>|\\?|~|%|\\t|0|1\\.5|\\$\\{\\{ vars\\.a \\}\\}){0,80}") {
        let _ = parse_document(&text);
        let _ = parse_workspace_json(&text);
    }

    #[test]
    fn a_mangled_example_is_read_or_refused(at in 0..EXAMPLE.len(), cut in 0usize..40, insert in "[ -~\\n]{0,6}") {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, insert.bytes());
        if let Ok(text) = String::from_utf8(bytes) && let Ok(Document::Workspace(resource)) = parse_document(&text) {
            let json = serde_json::to_string(&resource.spec).unwrap();
            prop_assert_eq!(parse_workspace_json(&json).unwrap(), resource.spec);
        }
    }
}

#[test]
fn a_volume_has_a_size_and_an_access_mode() {
    let document = "apiVersion: cordium/v1\nkind: Volume\nmetadata: {name: v}\nspec: {size: {megabytes: 64}, accessMode: ACCESS_MODE_SHARED}";
    let Document::Volume(volume) = parse_document(document).unwrap() else { panic!("not a volume") };
    assert_eq!(
        (volume.spec.size.megabytes, volume.spec.access_mode),
        (64, crate::AccessMode::AccessModeShared)
    );
    let json = serde_json::to_string(&parse_volume_json("{}").unwrap()).unwrap();
    assert_eq!(json, r#"{"size":{"megabytes":10000},"accessMode":"ACCESS_MODE_EXCLUSIVE"}"#);
    for (text, path) in [
        ("size: {megabytes: 15}", "spec.size.megabytes"),
        ("size: {megabytes: 10000001}", "spec.size.megabytes"),
        ("size: {}", "spec.size.megabytes"),
        ("size: 64", "spec.size"),
        ("accessMode: EXCLUSIVE", "spec.accessMode"),
        ("mountPath: /data", "spec.mountPath"),
    ] {
        assert_eq!(parse_volume_json(text).expect_err(text).path, path, "{text}");
    }
    let nameless = "{apiVersion: cordium/v1, kind: Volume, spec: {}}";
    assert_eq!(parse_document(nameless).unwrap_err().path, "metadata.name");
}

#[test]
fn an_egress_section_is_read_alone_or_in_a_document() {
    let section = "defaultAction: DENY\nrules: [{action: ALLOW, hosts: [a.example]}]\n";
    let egress = parse_egress(section).unwrap();
    assert_eq!(egress.rules[0].hosts, ["a.example"]);
    let spec = r#"{"runtime": {"network": {"egress": {"defaultAction": "DENY", "rules": [{"action": "ALLOW", "hosts": ["a.example"]}]}}}}"#;
    for kind in ["Workspace", "Template"] {
        let text = format!(
            r#"{{"apiVersion": "cordium/v1", "kind": "{kind}", "metadata": {{"name": "a"}}, "spec": {spec}}}"#
        );
        assert_eq!(parse_egress(&text).unwrap(), egress);
    }
    let error = |text: &str| parse_egress(text).unwrap_err().to_string();
    let space = "{apiVersion: cordium/v1, kind: Space, metadata: {name: a}}";
    assert!(
        error(space).starts_with("kind: was \"Space\"; allowed: Workspace, Template"),
        "{}",
        error(space)
    );
    assert!(
        error("rules: [{hosts: [a.example]}]")
            .starts_with("spec.runtime.network.egress.rules[0].action: missing")
    );
    assert!(
        error("rules: [{action: DENY, hosts: ['*']}]")
            .starts_with("spec.runtime.network.egress.rules[0].hosts[0]: was")
    );
    for text in ["", "[]", "a", "rule: []"] {
        assert!(parse_egress(text).is_err(), "{text}");
    }
}
