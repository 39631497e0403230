#![allow(clippy::unwrap_used)]

use crate::{parse_document, parse_space_json, parse_template_json, parse_workspace_json, validate_name};

/// Each spec is refused with an error that begins so.
fn refused(cases: &[(&str, &str)]) {
    for (spec, expected) in cases {
        let error = parse_workspace_json(spec).expect_err(spec).to_string();
        assert!(error.starts_with(expected), "{spec}\n got {error}\nwant {expected}");
        assert!(error.contains("allowed: "), "{error}");
    }
}

fn accepted(specs: &[&str]) {
    for spec in specs {
        parse_workspace_json(spec).unwrap_or_else(|error| panic!("{spec}: {error}"));
    }
}

#[test]
fn environment() {
    let long = format!("runtime: {{envVars: [{{key: A, value: {}}}]}}", "x".repeat(1025));
    let many = format!("runtime: {{envVars: [{}]}}", "{key: A, value: b},".repeat(129));
    refused(&[
        ("runtime: {envVars: [{key: '', value: a}]}", "spec.runtime.envVars[0].key: was \"\""),
        ("runtime: {envVars: [{key: A=B, value: a}]}", "spec.runtime.envVars[0].key: was \"A=B\""),
        ("runtime: {envVars: [{key: Ä, value: a}]}", "spec.runtime.envVars[0].key: was \"Ä\""),
        (
            "runtime: {envVars: [{key: A, value: ''}]}",
            "spec.runtime.envVars[0].value: was \"\"; allowed: 1 to 1024",
        ),
        ("runtime: {envVars: [{key: A}]}", "spec.runtime.envVars[0].value: missing; allowed: exactly one of"),
        (
            "runtime: {envVars: [{key: A, value: a, fromSecret: b}]}",
            "spec.runtime.envVars[0]: had value and fromSecret",
        ),
        ("runtime: {envVars: [{key: A, fromSecret: 'b c'}]}", "spec.runtime.envVars[0].fromSecret: was"),
        (&long, "spec.runtime.envVars[0].value: was 1025 bytes long"),
        (&many, "spec.runtime.envVars: was a list of 129; allowed: at most 128"),
        (
            "runtime: {tasks: [{run: a, type: PRE_STOP, envVars: [{key: A, value: ''}]}]}",
            "spec.runtime.tasks[0].envVars[0].value",
        ),
    ]);
    accepted(&["runtime: {envVars: [{key: a.b-C_1, value: \"x\\ny\"}, {key: B, fromSecret: s.default.me}]}"]);
}

#[test]
fn tasks() {
    let long = format!("runtime: {{tasks: [{{type: PRE_STOP, run: {}}}]}}", "x".repeat(5001));
    refused(&[
        (
            "runtime: {tasks: [{run: '', type: ON_CREATE}]}",
            "spec.runtime.tasks[0].run: was \"\"; allowed: 1 to 5000",
        ),
        (&long, "spec.runtime.tasks[0].run: was 5001 bytes long"),
        (
            "runtime: {tasks: [{run: a, type: ON_CREATE, workingDir: src}]}",
            "spec.runtime.tasks[0].workingDir: was \"src\"",
        ),
        (
            "runtime: {tasks: [{run: a, type: ON_CREATE, workingDir: /a/../b}]}",
            "spec.runtime.tasks[0].workingDir",
        ),
        ("runtime: {tasks: [{run: a, type: ON_CREATE, name: \"a\\nb\"}]}", "spec.runtime.tasks[0].name"),
        ("runtime: {cmd: \"echo 'a\"}", "spec.runtime.cmd: was"),
        ("runtime: {entrypoint: ''}", "spec.runtime.entrypoint: was \"\""),
    ]);
    accepted(&[
        "runtime: {tasks: [{run: a, type: ON_CREATE, workingDir: '/w/${{ vars.DIR }}', onFailure: ON_FAILURE_ABORT}]}",
    ]);
}

#[test]
fn applications() {
    refused(&[
        ("applications: [{port: 80}]", "spec.applications[0].name: missing"),
        ("applications: [{name: '', port: 80}]", "spec.applications[0].name: was \"\""),
        ("applications: [{name: Web, port: 80}]", "spec.applications[0].name: was \"Web\""),
        ("applications: [{name: a, port: 0}]", "spec.applications[0].port: was 0"),
        ("applications: [{name: a, port: 65536}]", "spec.applications[0].port: was 65536"),
        ("applications: [{name: a, port: 80}, {name: a, port: 81}]", "spec.applications[1].name: was \"a\""),
        (
            "applications: [{name: a, port: 80, isDefault: true}, {name: c, port: 82}, {name: b, port: 81, isDefault: true}]",
            "spec.applications[2].isDefault: was true for a second one",
        ),
    ]);
}

#[test]
fn images() {
    let inline = format!("image: {{dockerfile: {{inline: {}}}}}", "x".repeat(5001));
    refused(&[
        ("image: {registry: {url: ''}}", "spec.image.registry.url: was \"\""),
        ("image: {registry: {url: 'https://a/b'}}", "spec.image.registry.url: was \"https://a/b\""),
        (
            "image: {registry: {url: Alpine}}",
            "spec.image.registry.url: was \"Alpine\"; allowed: an image reference",
        ),
        ("image: {registry: {url: 'oci:'}}", "spec.image.registry.url"),
        (
            "image: {registry: {url: a, authentication: {username: '', password: {fromSecret: s}}}}",
            "spec.image.registry.authentication.username",
        ),
        (
            "image: {registry: {url: a, authentication: {username: u, password: {fromSecret: ''}}}}",
            "spec.image.registry.authentication.password.fromSecret",
        ),
        (
            "image: {registry: {url: a, authentication: {username: u, password: s}}}",
            "spec.image.registry.authentication.password: was \"s\"; allowed: a mapping",
        ),
        (
            "image: {registry: {url: 'oci:/a', authentication: {username: u, password: {fromSecret: s}}}}",
            "spec.image.registry.authentication: was set for a local image",
        ),
        (&inline, "spec.image.dockerfile.inline: was 5001"),
        (
            "image: {dockerfile: {inline: FROM a, url: 'https://a'}}",
            "spec.image.dockerfile: was a mapping with",
        ),
        ("image: {dockerfile: {url: 'file:///etc/passwd'}}", "spec.image.dockerfile.url: was"),
        ("image: {git: {url: 'https://a/b', context: ../..}}", "spec.image.git.context: was \"../..\""),
        (
            "image: {repository: {devcontainer: {dirPath: /etc}}}",
            "spec.image.repository.devcontainer.dirPath",
        ),
    ]);
    accepted(&[
        "image: {registry: {url: '${{ vars.IMAGE }}'}}",
        "image: {registry: {url: 'oci:./build/layout:v1'}}",
        "image: {registry: {url: 'docker-archive:/srv/a.tar'}}",
        "image: {dockerfile: {inline: \"FROM a\\nRUN b\"}}",
        "image: {git: {url: 'https://a/b', checkout: v1, dockerfile: d/Dockerfile, context: .}}",
        "image: {repository: {devcontainer: {}}}",
        "image: {repository: {dockerfile: {path: Dockerfile}}}",
    ]);
}

#[test]
fn repositories() {
    let long = format!("repository: {{url: 'https://a.example/{}'}}", "x".repeat(256));
    refused(&[
        (
            "repository: {url: 'file:///etc/passwd'}",
            "spec.repository.url: was \"file:///etc/passwd\"; allowed: an https:// (or http://) URL; the scheme \"file\"",
        ),
        ("repository: {url: 'ssh://git@a.example/b'}", "spec.repository.url: was \"ssh://git@a.example/b\""),
        (
            "repository: {url: 'git@github.com:a/b.git'}",
            "spec.repository.url: was \"git@github.com:a/b.git\"; allowed: an https:// (or http://) URL; ssh is not supported",
        ),
        ("repository: {url: 'ext::sh -c touch% /tmp/x'}", "spec.repository.url"),
        ("repository: {url: '--upload-pack=x'}", "spec.repository.url"),
        ("repository: {url: 'https://'}", "spec.repository.url"),
        ("repository: {url: 'https://a b/c'}", "spec.repository.url"),
        ("repository: {url: 'https://a.example:99999/c'}", "spec.repository.url"),
        ("repository: {url: \"https://a.example/c\\n\"}", "spec.repository.url"),
        (
            "repository: {url: 'https://me:hunter2@a.example/c'}",
            "spec.repository.url: was a URL with a user name in it",
        ),
        (&long, "spec.repository.url: was 274 bytes long; allowed: 1 to 256"),
        (
            "repository: {url: 'https://a', cloneOptions: {branch: --orphan}}",
            "spec.repository.cloneOptions.branch",
        ),
        (
            "repository: {url: 'https://a', cloneOptions: {checkout: a..b}}",
            "spec.repository.cloneOptions.checkout",
        ),
        (
            "repository: {url: 'https://a', cloneOptions: {depth: -1}}",
            "spec.repository.cloneOptions.depth: was -1",
        ),
        (
            "repository: {url: 'https://a', authentication: {}}",
            "spec.repository.authentication.http: missing",
        ),
        (
            "additionalRepositories: [{name: a, repository: {}}]",
            "spec.additionalRepositories[0].repository.url: missing",
        ),
        (
            "additionalRepositories: [{name: a/b, repository: {url: 'https://a'}}]",
            "spec.additionalRepositories[0].name",
        ),
        (
            "additionalRepositories: [{name: a, clonePath: ../etc, repository: {url: 'https://a'}}]",
            "spec.additionalRepositories[0].clonePath: was \"../etc\"",
        ),
        (
            "additionalRepositories: [{name: a, clonePath: /etc, repository: {url: 'https://a'}}]",
            "spec.additionalRepositories[0].clonePath: was \"/etc\"",
        ),
        (
            "additionalRepositories: [{name: a, clonePath: repo/x, repository: {url: 'https://a'}}]",
            "spec.additionalRepositories[0].clonePath: was \"/workspace/repo/x\"; allowed: a path that does not overlap",
        ),
        (
            "additionalRepositories: [{name: a, repository: {url: 'https://a'}}, {name: a, repository: {url: 'https://a'}}]",
            "spec.additionalRepositories[1].name: was \"a\"",
        ),
    ]);
    let error =
        parse_workspace_json("repository: {url: 'https://me:hunter2@a.example/c'}").unwrap_err().to_string();
    assert!(!error.contains("hunter2"));
    accepted(&[
        "repository: {url: 'http://127.0.0.1:8080/a/b.git', cloneOptions: {branch: feature/x, checkout: 0a1b2c3}}",
        "repository: {url: 'https://[::1]:8080/a'}",
        "repository: {cloneOptions: {branch: dev}}",
        "additionalRepositories: [{name: a, clonePath: lib/a, repository: {url: 'HTTPS://a.example/?x=y'}}]",
    ]);
    assert_eq!(
        parse_template_json("repository: {cloneOptions: {depth: 1}}").unwrap_err().path,
        "spec.repository.url"
    );
}

#[test]
fn limits() {
    refused(&[
        (
            "limit: {cpu: {millicores: 0}}",
            "spec.limit.cpu.millicores: was 0; allowed: 10 to 1000000 thousandths",
        ),
        ("limit: {cpu: {millicores: 1000001}}", "spec.limit.cpu.millicores: was 1000001"),
        (
            "limit: {memory: {megabytes: 0}}",
            "spec.limit.memory.megabytes: was 0; allowed: 16 to 10000000 MiB",
        ),
        ("limit: {memory: {megabytes: 10000001}}", "spec.limit.memory.megabytes: was 10000001"),
        (
            "limit: {storage: {megabytes: 18446744073709551615}}",
            "spec.limit.storage.megabytes: was 18446744073709551615",
        ),
        ("limit: {pids: 0}", "spec.limit.pids: was 0"),
        ("limit: {pids: 9223372036854775808}", "spec.limit.pids: was 9223372036854775808"),
        (
            "limit: {cpu: {millicores: 9223372036854775808}}",
            "spec.limit.cpu.millicores: was 9223372036854775808",
        ),
        ("limit: {memory: {megabytes: 9223372036854775808}}", "spec.limit.memory.megabytes: was 922"),
        ("limit: {swap: {megabytes: 9223372036854775808}}", "spec.limit.swap.megabytes: was 922"),
        ("limit: {inodes: 0}", "spec.limit.inodes: was 0; allowed: 1024 to 1000000000 files and directories"),
        ("limit: {inodes: 9223372036854775808}", "spec.limit.inodes: was 922"),
        ("limit: {io: {weight: 0}}", "spec.limit.io.weight: was 0; allowed: 1 to 10000 parts"),
        ("limit: {io: {weight: 9223372036854775808}}", "spec.limit.io.weight: was 922"),
        ("limit: {openFiles: 0}", "spec.limit.openFiles: was 0; allowed: 256 to 1048576 files"),
        ("limit: {openFiles: 9223372036854775808}", "spec.limit.openFiles: was 922"),
        ("limit: {inotify: {instances: 0}}", "spec.limit.inotify.instances: was 0"),
        ("limit: {inotify: {watches: 9223372036854775808}}", "spec.limit.inotify.watches: was 922"),
        ("limit: {userNamespaces: 0}", "spec.limit.userNamespaces: was 0"),
        ("limit: {userNamespaces: 9223372036854775808}", "spec.limit.userNamespaces: was 922"),
    ]);
    accepted(&[
        "limit: {swap: {megabytes: 0}, inodes: 1024, io: {weight: 10000}, openFiles: 256, inotify: {instances: 1, watches: 1}, userNamespaces: 1}",
        "limit: {cpu: {millicores: 1000000}, memory: {megabytes: 10000000}, storage: {megabytes: 10000000}}",
    ]);
    assert_eq!(
        parse_space_json("limit: {maxLimit: {pids: 0}}").unwrap_err().path,
        "spec.limit.maxLimit.pids"
    );
}

#[test]
fn network_rules() {
    let rule = |rule: &str| format!("runtime: {{network: {{egress: {{rules: [{rule}]}}}}}}");
    let at = "spec.runtime.network.egress.rules[0]";
    for (text, expected) in [
        ("{cidrs: [10.0.0.0/8]}", ".action: missing"),
        ("{action: ALLOW}", ".cidrs: was an empty list; allowed: at least one of a network"),
        ("{action: ALLOW, cidrs: []}", ".cidrs: was an empty list"),
        ("{action: ALLOW, cidrs: [10.0.0.0]}", ".cidrs[0]: was \"10.0.0.0\""),
        ("{action: ALLOW, cidrs: [not-a-cidr]}", ".cidrs[0]: was \"not-a-cidr\""),
        ("{action: ALLOW, cidrs: [10.0.0.0/64]}", ".cidrs[0]: was \"10.0.0.0/64\""),
        ("{action: ALLOW, cidrs: ['']}", ".cidrs[0]: was \"\""),
        ("{action: ALLOW, cidrs: [10.0.0.0/+8]}", ".cidrs[0]"),
        ("{action: ALLOW, cidrs: [10.0.0.0/08]}", ".cidrs[0]"),
        ("{action: ALLOW, cidrs: ['::/129']}", ".cidrs[0]"),
        (
            "{action: ALLOW, cidrs: [0.0.0.0/0, 10.1.2.3/8]}",
            ".cidrs[1]: was \"10.1.2.3/8\"; allowed: 10.0.0.0/8 for the network, or 10.1.2.3/32",
        ),
        (
            "{action: ALLOW, cidrs: ['2001:db8::1/32']}",
            ".cidrs[0]: was \"2001:db8::1/32\"; allowed: 2001:db8::/32",
        ),
        ("{action: ALLOW, cidrs: [10.0.0.0/8], ports: [0]}", ".ports[0]: was 0"),
        ("{action: ALLOW, cidrs: [10.0.0.0/8], ports: [65536]}", ".ports[0]: was 65536"),
        ("{action: ALLOW, cidrs: [10.0.0.0/8], ports: [1048576]}", ".ports[0]: was 1048576"),
        ("{action: ALLOW, hosts: [a.b], protocols: [udp]}", ".protocols[0]: was \"udp\"; allowed: TCP, UDP"),
        (
            "{action: ALLOW, hosts: [a.b], protocols: [UDP, TCP, UDP]}",
            ".protocols: was a list of 3; allowed: at most 2",
        ),
        ("{action: ALLOW, hosts: ['*']}", ".hosts[0]: was \"*\"; allowed: a host name such as"),
        (
            "{action: ALLOW, hosts: [a.b, 'bücher.example']}",
            ".hosts[1]: was \"bücher.example\"; allowed: a host",
        ),
        ("{action: ALLOW, hosts: [10.0.0.1]}", ".hosts[0]: was \"10.0.0.1\""),
        ("{action: ALLOW, hosts: [a.b], name: a b}", ".name: was \"a b\"; allowed: 1 to 63 letters"),
        ("{action: ALLOW, hosts: [a.b], host: a.b}", ".host"),
        (
            "{action: ALLOW, hosts: [a.b], condition: 'ctx.time.hour >= 8 && ctx.time.day == 1'}",
            ".condition: was \"ctx.time.day\" at line 1, column 32; allowed: ctx.time.hour, ctx.time.minute",
        ),
        (
            "{action: ALLOW, hosts: [a.b], condition: '[1].all(x, x > 0)'}",
            ".condition: was \"all\" at line 1, column 5; allowed: startsWith, endsWith and contains",
        ),
        ("{action: ALLOW, hosts: [a.b], condition: ''}", ".condition: was the end at line 1, column 1"),
        ("{action: ALLOW, condition: 'true'}", ".cidrs: was an empty list"),
        (
            "{action: ALLOW, cidrs: [10.0.0.0/8], methods: [GET]}",
            ".hosts: was an empty list; allowed: at least one host",
        ),
        ("{action: ALLOW, hosts: [a.b], methods: [get]}", ".methods[0]: was \"get\" (is no method)"),
        (
            "{action: ALLOW, hosts: [a.b], paths: [/a, /b//c]}",
            ".paths[1]: was \"/b//c\" (the path has an empty segment",
        ),
        ("{action: REJECT, cidrs: [10.0.0.0/8]}", ".action: was \"REJECT\"; allowed: ALLOW, DENY"),
    ] {
        refused(&[(&rule(text), &format!("{at}{expected}"))]);
    }
    let valid = "{cidrs: [0.0.0.0/0, '::/0', 192.0.2.1/32, 'fd00::/8'], action: DENY, ports: [22, 65535]}";
    let spec = parse_workspace_json(&rule(valid)).unwrap();
    assert_eq!(spec.runtime.network.egress.rules[0].cidrs[3], "fd00::/8");
    let valid = "{hosts: ['*.Example.com', example.com.], action: ALLOW, name: our-own_1.0}";
    let spec = parse_workspace_json(&rule(valid)).unwrap();
    assert_eq!(spec.runtime.network.egress.rules[0].hosts, ["*.Example.com", "example.com."]);
    let valid = "{hosts: [a.b], action: DENY, methods: [GET, M-SEARCH], paths: [/, /v1/x]}";
    let spec = parse_workspace_json(&rule(valid)).unwrap();
    assert_eq!(spec.runtime.network.egress.rules[0].paths, ["/", "/v1/x"]);
    let valid = "{hosts: [a.b], action: ALLOW, protocols: [UDP, TCP]}";
    let policy = parse_workspace_json(&rule(valid)).unwrap().runtime.network.egress;
    let policy = policy.policy(cordium_egress::DefaultAction::Deny, vec![]);
    assert_eq!(policy.rules[0].protocols, [cordium_egress::Protocol::Udp, cordium_egress::Protocol::Tcp]);
    let conditional = "{hosts: [a.b], action: ALLOW, condition: 'ctx.user.name == \"uid 0\"'}";
    let rules = |count| rule(&vec![conditional; count].join(", "));
    assert!(parse_workspace_json(&rules(256)).is_ok());
    let error = parse_workspace_json(&rules(257)).unwrap_err().to_string();
    assert!(error.contains("rules[256].condition: was one more than 256"), "{error}");
    let many = vec![valid; 1000].join(", ");
    assert!(parse_workspace_json(&rule(&many)).is_ok());
    let error = parse_workspace_json(&rule(&format!("{many}, {valid}"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "spec.runtime.network.egress.rules: was a list of 1001; allowed: at most 1000"
    );
}

#[test]
fn services() {
    let of = |service: &str| format!("runtime: {{network: {{services: [{service}]}}}}");
    let at = "spec.runtime.network.services[0]";
    let base = "name: db, fromSecret: s";
    let protocol = "protocol: {postgresql: {user: app}}";
    let good = format!("{base}, upstream: {{host: db.example}}, {protocol}");
    for (text, expected) in [
        ("{}".to_owned(), ".name: missing"),
        (format!("{{name: db, upstream: {{host: a}}, {protocol}}}"), ".fromSecret: missing"),
        (format!("{{{base}, {protocol}}}"), ".upstream: missing"),
        (format!("{{{base}, upstream: {{}}, {protocol}}}"), ".upstream.host: missing"),
        (format!("{{{base}, upstream: {{host: a.example}}}}"), ".protocol: missing"),
        (
            format!("{{{base}, upstream: {{host: 127.0.0.1}}, {protocol}}}"),
            ".upstream.host: no workspace reaches",
        ),
        (
            format!("{{{base}, upstream: {{host: localhost}}, {protocol}}}"),
            ".upstream.host: this name exists inside",
        ),
        (format!("{{{base}, upstream: {{host: a, port: 0}}, {protocol}}}"), ".upstream.port: was 0"),
        (format!("{{{good}, local: {{port: 0}}}}"), ".local.port: was 0"),
        (format!("{{{good}, local: {{host: github.com}}}}"), ".local.host: is no name of a service"),
        (format!("{{{good}, password: hunter2}}"), ".password"),
        (good.replace("name: db", "name: host"), ".local.host: is no name of a service"),
        (good.replace("name: db", "name: D_b"), ".name: is no name"),
        (good.replace("fromSecret: s", "fromSecret: S_"), ".fromSecret: was \"S_\""),
        (good.replace("user: app", "user: ''"), ".protocol.postgresql.user: is no name"),
        (good.replace("user: app", "user: app, database: ''"), ".protocol.postgresql.database: is no name"),
        (good.replace("user: app", "user: app, tls: PREFER"), ".protocol.postgresql.tls"),
        (good.replace("postgresql", "mysql"), ".protocol"),
    ] {
        let text = if text.starts_with('{') { text } else { format!("{{{text}}}") };
        refused(&[(&of(&text), &format!("{at}{expected}"))]);
    }
    let twice = of(&format!(
        "{{{good}}}, {{{}}}",
        good.replace("name: db", "name: other, local: {host: DB.cordium.internal}")
    ));
    refused(&[(
        &twice,
        "spec.runtime.network.services[1].local.port: another service has this name and port",
    )]);
    let spec = parse_workspace_json(&of(&format!("{{{good}}}"))).unwrap();
    let service = &spec.runtime.network.services[0];
    assert_eq!((service.local_host().as_str(), service.local_port()), ("db.cordium.internal", 5432));
    assert_eq!(service.upstream_port(), 5432);
    assert_eq!(service.kind(), crate::service::Kind::Postgresql);
    assert_eq!(crate::secret_names(&spec), ["s".to_owned()].into());
}

#[test]
fn credentials() {
    let of = |credential: &str| format!("runtime: {{network: {{credentials: [{credential}]}}}}");
    let at = "spec.runtime.network.credentials[0]";
    let good = "name: a, fromSecret: s, hosts: [a.example]";
    for (text, expected) in [
        ("{fromSecret: s, hosts: [a.example]}", ".name: missing".to_owned()),
        ("{name: a, hosts: [a.example]}", ".fromSecret: missing".to_owned()),
        ("{name: a, fromSecret: s}", ".hosts: missing".to_owned()),
        ("{name: a, fromSecret: s, hosts: []}", ".hosts: has a length of 0".to_owned()),
        (
            "{name: a b, fromSecret: s, hosts: [a.example]}",
            ".name: is no name; allowed: 1 to 63 letters".to_owned(),
        ),
        ("{name: a, fromSecret: S_, hosts: [a.example]}", ".fromSecret: was \"S_\"".to_owned()),
        ("{name: a, fromSecret: s, hosts: ['*.example']}", ".hosts[0]: ".to_owned()),
        ("{name: a, fromSecret: s, hosts: [10.0.0.1]}", ".hosts[0]: ".to_owned()),
        (&format!("{{{good}, methods: [get]}}"), ".methods[0]: is no method".to_owned()),
        (&format!("{{{good}, paths: [/a/../b]}}"), ".paths[0]: the path has '.' or '..'".to_owned()),
        (&format!("{{{good}, inject: {{header: {{name: Host}}}}}}"), ".inject: that header says".to_owned()),
        (&format!("{{{good}, inject: {{basic: {{username: 'a:b'}}}}}}"), ".inject: the user name".to_owned()),
        (
            &format!("{{{good}, inject: {{sigV4: {{accessKeyId: a b}}}}}}"),
            ".inject: the access key's id".to_owned(),
        ),
        (&format!("{{{good}, inject: {{cookie: {{name: a}}}}}}"), ".inject".to_owned()),
        (&format!("{{{good}, placeholder: short}}"), ".placeholder: has a length of 5".to_owned()),
        (&format!("{{{good}, env: 'A=B'}}"), ".env: was \"A=B\"".to_owned()),
        (&format!("{{{good}, value: hunter2}}"), ".value".to_owned()),
    ] {
        refused(&[(&of(text), &format!("{at}{expected}"))]);
    }
    let twice = of(&format!("{{{good}}}, {{{good}}}"));
    refused(&[(&twice, "spec.runtime.network.credentials[1].name: was \"a\"; allowed: each name once")]);
    refused(&[(
        "runtime: {network: {extraRoots: [x]}}",
        "spec.runtime.network.extraRoots[0]: is not a certificate",
    )]);
    let spec = parse_workspace_json(&of(&format!("{{{good}}}"))).unwrap();
    let credential = &spec.runtime.network.credentials[0];
    let bearer = crate::Inject::Header { name: "Authorization".into(), prefix: "Bearer ".into() };
    assert_eq!((&credential.inject, &credential.env), (&bearer, &None));
    assert_eq!(crate::secret_names(&spec), ["s".to_owned()].into());
}

#[test]
fn capabilities() {
    refused(&[
        (
            "runtime: {capabilities: {add: [NOT_A_CAP]}}",
            "spec.runtime.capabilities.add[0]: was \"NOT_A_CAP\"",
        ),
        ("runtime: {capabilities: {drop: [ALL]}}", "spec.runtime.capabilities.drop[0]: was \"ALL\""),
        (
            "runtime: {capabilities: {add: [sys_ptrace]}}",
            "spec.runtime.capabilities.add[0]: was \"sys_ptrace\"; allowed: SYS_PTRACE",
        ),
        (
            "runtime: {capabilities: {add: [SYS_PTRACE], drop: [CAP_SYS_PTRACE]}}",
            "spec.runtime.capabilities.add[0]: was \"SYS_PTRACE\"",
        ),
    ]);
    accepted(&["runtime: {capabilities: {add: [SYS_PTRACE, CAP_NET_ADMIN], drop: [SYS_CHROOT]}}"]);
}

#[test]
fn volume_mounts() {
    let mounts = |paths: &[&str]| {
        let entries: Vec<_> =
            paths.iter().map(|path| format!("{{volumeRef: {{name: v}}, mountPath: '{path}'}}")).collect();
        format!("runtime: {{volumeMounts: [{}]}}", entries.join(", "))
    };
    for path in [
        "/",
        "/proc",
        "/proc/self",
        "/sys",
        "/dev/shm",
        "/workspace",
        "/workspace/data",
        "/cordium-volumes/x",
        "/run/cordium",
        "/etc",
        "/usr",
        "/var",
        "/var/lib",
        "/var/lib/docker",
        "/tmp",
        "/home",
        "data",
        "",
        "/data/",
        "/a//b",
        "/a/./b",
        "/data/../etc",
    ] {
        let error = parse_workspace_json(&mounts(&[path])).expect_err(path);
        assert_eq!(error.path, "spec.runtime.volumeMounts[0].mountPath", "{path}");
    }
    for paths in [["/data", "/data"], ["/data", "/data/x"], ["/data/x", "/data"]] {
        let error = parse_workspace_json(&mounts(&paths)).unwrap_err();
        assert_eq!(error.path, "spec.runtime.volumeMounts[1].mountPath", "{paths:?}");
    }
    accepted(&[&mounts(&["/data", "/data2", "/home/me/cache", "/opt/tools", "/workspaces"])]);
    refused(&[(
        "runtime: {volumeMounts: [{volumeRef: {}, mountPath: /data}]}",
        "spec.runtime.volumeMounts[0].volumeRef: was empty",
    )]);
}

#[test]
fn vars() {
    refused(&[
        ("vars: [{name: '', value: a}]", "spec.vars[0].name: was \"\""),
        ("vars: [{name: 1a, value: a}]", "spec.vars[0].name: was \"1a\""),
        ("vars: [{name: a b, value: a}]", "spec.vars[0].name: was \"a b\""),
        ("vars: [{name: A, value: a}, {name: A, value: b}]", "spec.vars[1].name: was \"A\""),
    ]);
}

#[test]
fn names() {
    for good in ["a", "a-1", "0", &"x".repeat(63)] {
        validate_name("name", good).unwrap();
    }
    for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a b", "a/b", "..", &"x".repeat(64)] {
        assert_eq!(validate_name("name", bad).expect_err(bad).path, "name");
    }
    let labels = "{apiVersion: cordium/v1, kind: Workspace, metadata: {labels: {'a b': c}}}";
    assert!(parse_document(labels).unwrap_err().to_string().starts_with("metadata.labels: was \"a b\""));
}

#[test]
fn a_mistake_of_the_space_is_told() {
    assert_eq!(
        parse_space_json("runtime: {tasks: [{run: '', type: PRE_STOP}]}").unwrap_err().path,
        "spec.runtime.tasks[0].run"
    );
    assert_eq!(parse_space_json("runtime: {cmd: a}").unwrap_err().path, "spec.runtime.cmd");
}
