#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::{parse_resolved_json, parse_space_json, parse_template_json, parse_workspace_json};

fn resolved(
    template: &str,
    workspace: &str,
    space: &str,
    vars: &[(&str, &str)],
) -> Result<WorkspaceSpec, SpecError> {
    let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    resolve(
        &parse_template_json(template)?,
        &parse_workspace_json(workspace)?,
        &parse_space_json(space)?,
        &vars,
        &LimitDefaults::default(),
    )
}

fn env(spec: &WorkspaceSpec) -> Vec<(&str, &str)> {
    spec.runtime.env_vars.iter().map(|env| (env.key.as_str(), env.value.as_deref().unwrap_or("?"))).collect()
}

#[test]
fn run_beats_workspace_beats_template() {
    let template = "vars: [{name: G, value: t}, {name: T, value: t}]\nruntime: {envVars: [{key: A, value: '${{ vars.G }}'}, {key: T, value: '${{vars.T}}'}]}";
    let workspace =
        "vars: [{name: G, value: w}]\nruntime: {tasks: [{type: POST_START, run: 'echo ${{vars.G}}'}]}";
    let spec = resolved(template, workspace, "{}", &[]).unwrap();
    assert_eq!(env(&spec), [("A", "w"), ("T", "t")]);
    assert_eq!(spec.runtime.tasks[0].run, "echo w");
    let spec = resolved(template, workspace, "{}", &[("G", "r")]).unwrap();
    assert_eq!(env(&spec), [("A", "r"), ("T", "t")]);
    assert_eq!(spec.runtime.tasks[0].run, "echo r");
    assert_eq!(spec.vars.iter().map(|var| var.value.as_str()).collect::<Vec<_>>(), ["r", "t"]);
}

#[test]
fn scalars_override_lists_are_appended_and_images_replaced() {
    let template = "
image: {registry: {url: a, authentication: {username: u, password: {fromSecret: s}}}}
runtime:
  autoStop: true
  cmd: one
  filesystem: {readOnly: true}
  timeout: {mode: DISABLED}
  tasks: [{name: t, type: POST_START, run: a}]
  capabilities: {add: [SYS_PTRACE, NET_RAW], drop: [CHOWN]}
  network: {egress: {defaultAction: DENY}}
additionalRepositories: [{name: a, repository: {url: 'https://a'}}]
";
    let workspace = "
image: {registry: {url: b}}
runtime:
  autoStop: false
  tasks: [{type: PRE_STOP, run: b}]
  capabilities: {add: [CAP_SYS_PTRACE, CHOWN], drop: [NET_RAW]}
additionalRepositories: [{name: b, repository: {url: 'https://b'}}]
";
    let spec =
        resolved(template, workspace, "runtime: {tasks: [{name: s, type: ON_CREATE, run: c}]}", &[]).unwrap();
    let ImageSource::Registry(image) = spec.image.as_ref().unwrap() else { panic!("no registry") };
    assert_eq!(
        (image.url.as_str(), &image.authentication),
        ("b", &None),
        "credentials do not follow to another image"
    );
    let runtime = &spec.runtime;
    assert_eq!(
        (runtime.auto_stop, runtime.cmd.as_deref(), runtime.filesystem.read_only),
        (Some(false), Some("one"), Some(true))
    );
    assert_eq!(runtime.timeout.mode, TimeoutMode::Disabled);
    assert_eq!(runtime.network.egress.default_action, DefaultAction::Deny);
    assert_eq!(runtime.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["t", "task-2", "s"]);
    assert_eq!(runtime.capabilities.add, ["SYS_PTRACE"], "what anybody drops is not added");
    assert_eq!(runtime.capabilities.drop, ["CHOWN", "NET_RAW"]);
    assert_eq!(
        spec.additional_repositories.iter().map(AdditionalRepository::path).collect::<Vec<_>>(),
        ["/workspace/additional-repos/a", "/workspace/additional-repos/b"]
    );
}

#[test]
fn a_repository_is_changed_in_part_or_replaced() {
    let template = "repository: {url: 'https://a', cloneOptions: {branch: main, depth: 3}, authentication: {http: {username: u, password: {fromSecret: s}}}}";
    let same = resolved(template, "repository: {cloneOptions: {branch: dev}}", "{}", &[])
        .unwrap()
        .repository
        .unwrap();
    assert_eq!(
        (same.url.as_str(), same.clone_options.branch.as_deref(), same.clone_options.depth),
        ("https://a", Some("dev"), Some(3))
    );
    assert!(same.authentication.is_some());
    let other = resolved(template, "repository: {url: 'https://b'}", "{}", &[]).unwrap().repository.unwrap();
    assert_eq!(other, Repository { url: "https://b".into(), ..Repository::default() });
    let error = resolved("{}", "repository: {cloneOptions: {branch: dev}}", "{}", &[]).unwrap_err();
    assert_eq!(error.path, "spec.repository.url");
}

#[test]
fn the_space_s_environment_is_overridden_and_its_variables_replaced() {
    let space = "runtime: {envVars: [{key: A, value: space}, {key: B, value: 'x${{ vars.V }}'}], capabilities: {drop: [MKNOD]}}";
    let spec = resolved(
        "runtime: {envVars: [{key: A, value: template}, {key: C, value: c}]}",
        "vars: [{name: V, value: v}]\nruntime: {envVars: [{key: A, value: workspace}], capabilities: {add: [MKNOD]}}",
        space,
        &[],
    )
    .unwrap();
    assert_eq!(env(&spec), [("B", "xv"), ("C", "c"), ("A", "workspace")]);
    assert!(spec.runtime.capabilities.add.is_empty());
}

#[test]
fn limits_are_chosen_per_dimension_and_defaults_are_capped() {
    let parse = |text| parse_workspace_json(text).unwrap();
    let template = parse_template_json(
        "limit: {cpu: {millicores: 700}, inotify: {instances: 9}, io: {weight: 7}, openFiles: 512}",
    )
    .unwrap();
    let workspace = parse("limit: {cpu: {millicores: 750}, inotify: {watches: 90}, swap: {megabytes: 3}}");
    let space = parse_space_json(
        "limit: {defaultLimit: {cpu: {millicores: 1}, storage: {megabytes: 500}}, maxLimit: {memory: {megabytes: 600}}}",
    );
    assert!(space.is_err(), "one millicore is too little");
    let space = parse_space_json("limit: {defaultLimit: {cpu: {millicores: 10}, storage: {megabytes: 500}}, maxLimit: {memory: {megabytes: 600}, userNamespaces: 5}}").unwrap();
    let node = LimitDefaults {
        default: EffectiveLimit { pids: 99, ..EffectiveLimit::DEFAULT },
        max: Limit { cpu: Some(Cpu { millicores: 800 }), pids: Some(90), ..Limit::default() },
    };
    let spec = resolve(&template, &workspace, &space, &BTreeMap::new(), &node).unwrap();
    let expected = EffectiveLimit {
        cpu_millicores: 750,
        memory_mib: 600,
        swap_mib: 3,
        storage_mib: 500,
        inodes: 32_000,
        pids: 90,
        io_weight: 7,
        open_files: 512,
        inotify_instances: 9,
        inotify_watches: 90,
        user_namespaces: 5,
    };
    assert_eq!(spec.limit.effective(), expected);
    assert_eq!(spec.limit, expected.into());

    let spec = resolved("{}", "{}", "{}", &[]).unwrap();
    assert_eq!(spec.limit.effective(), EffectiveLimit::DEFAULT);
    assert_eq!(spec.limit.effective().memory_bytes(), 6000 * 1024 * 1024);
    let spec = resolved("{}", "limit: {storage: {megabytes: 64}}", "{}", &[]).unwrap();
    assert_eq!(spec.limit.inodes, Some(16_384), "small storage still holds a few files");
}

#[test]
fn more_than_the_space_allows_is_one_error() {
    let refuse = |template: &str, workspace: &str, space: &str| {
        resolved(template, workspace, space, &[]).unwrap_err().to_string()
    };
    let space =
        "limit: {maxLimit: {cpu: {millicores: 1000}, memory: {megabytes: 600}, pids: 100, inodes: 5000}}";
    assert_eq!(
        refuse("{}", "limit: {cpu: {millicores: 1001}, memory: {megabytes: 600}, pids: 4096}", space),
        "spec.limit: asks for more than the Space allows: cpu.millicores was 1001, allowed: at most 1000; \
         pids was 4096, allowed: at most 100"
    );
    // The Template's wishes are the Workspace's unless it has its own.
    assert!(refuse("limit: {pids: 101}", "{}", space).contains("pids was 101"));
    let spec = resolved("limit: {pids: 101}", "limit: {pids: 99}", space, &[]).unwrap();
    assert_eq!((spec.limit.pids, spec.limit.inodes), (Some(99), Some(5000)));
    let node =
        LimitDefaults { max: Limit { pids: Some(50), ..Limit::default() }, ..LimitDefaults::default() };
    let workspace = parse_workspace_json("limit: {pids: 51}").unwrap();
    let error = resolve(&TemplateSpec::default(), &workspace, &SpaceSpec::default(), &BTreeMap::new(), &node);
    assert!(error.unwrap_err().to_string().contains("the node allows: pids was 51"));
}

#[test]
fn variables_are_replaced_only_where_they_may_be() {
    let v = "'https://a/${{ vars.V }}'";
    let workspace = format!(
        "
vars: [{{name: V, value: v}}]
image: {{registry: {{url: 'reg.example/a:${{{{ vars.V }}}}'}}}}
repository: {{url: {v}, cloneOptions: {{branch: '${{{{vars.V}}}}', checkout: '${{{{ vars.NONE }}}}'}}}}
additionalRepositories: [{{name: a, repository: {{url: {v}}}}}]
applications: [{{name: a, port: 1, displayName: '${{{{vars.V}}}}'}}]
runtime:
  cmd: 'a ${{{{vars.V}}}}'
  envVars: [{{key: E, value: '${{{{vars.NONE}}}}'}}]
  tasks: [{{type: PRE_STOP, name: '${{{{vars.V}}}}', run: '${{{{vars.V}}}}', workingDir: '/${{{{vars.V}}}}', envVars: [{{key: A, value: '${{{{vars.V}}}}'}}]}}]
"
    );
    let spec = resolved("{}", &workspace, "{}", &[]).unwrap();
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(json.matches("${{").count(), 3, "application, cmd and task name: {json}");
    let repository = spec.repository.as_ref().unwrap();
    assert_eq!(repository.url, "https://a/v");
    assert_eq!(
        (repository.clone_options.branch.as_deref(), &repository.clone_options.checkout),
        (Some("v"), &None)
    );
    assert_eq!(spec.additional_repositories[0].repository.url, "https://a/v");
    let task = &spec.runtime.tasks[0];
    assert_eq!(
        (task.run.as_str(), task.working_dir.as_deref(), task.env_vars[0].value.as_str()),
        ("v", Some("/v"), "v")
    );
    assert_eq!(env(&spec), [("E", "")], "a variable that is not set is empty");
    assert_eq!(parse_resolved_json(&json).unwrap(), spec);
    assert!(parse_workspace_json(&json).is_err(), "as a user's spec it is refused");
}

#[test]
fn what_variables_make_of_a_field_is_checked_again() {
    for (workspace, vars, expected) in [
        (
            "image: {registry: {url: '${{ vars.I }}'}}",
            vec![("I", "../x")],
            "spec.image.registry.url: was \"../x\"",
        ),
        (
            "image: {registry: {url: '${{ vars.I }}'}}",
            vec![],
            "spec.image.registry.url: was \"\"; allowed: 1 to 256 characters; variables that were not set and so are empty: \"I\"",
        ),
        (
            "image: {registry: {url: '${{ vars.I }}'}}",
            vec![("I", "oci:rel")],
            "spec.image.registry.url: was \"oci:rel\"; allowed: an absolute path",
        ),
        (
            "repository: {url: '${{ vars.R }}'}",
            vec![("R", "file:///etc")],
            "spec.repository.url: was \"file:///etc\"",
        ),
        (
            "repository: {url: 'https://a', cloneOptions: {branch: '${{ vars.B }}'}}",
            vec![("B", "--upload-pack=x")],
            "spec.repository.cloneOptions.branch: was",
        ),
        (
            "runtime: {tasks: [{type: PRE_STOP, run: '${{ vars.R }}'}]}",
            vec![],
            "spec.runtime.tasks[0].run: was \"\"",
        ),
        (
            "runtime: {tasks: [{type: PRE_STOP, run: x, workingDir: '${{ vars.R }}'}]}",
            vec![("R", "/../x")],
            "spec.runtime.tasks[0].workingDir",
        ),
        (
            "runtime: {envVars: [{key: A, value: '${{ vars.R }}${{ vars.R }}'}]}",
            vec![("R", LONG)],
            "spec.runtime.envVars[0].value: was 1200 bytes",
        ),
        (
            "vars: [{name: A, value: '${{ vars.B }}'}, {name: B, value: '${{ vars.A }}'}]",
            vec![],
            "vars.A: was part of a cycle: A → B → A",
        ),
        ("{}", vec![("a b", "")], "vars: was \"a b\""),
    ] {
        let error = resolved("{}", workspace, "{}", &vars).expect_err(workspace).to_string();
        assert_eq!(
            error.contains("not set"),
            resolved("{}", workspace, "{}", &vars).unwrap_err().wants_vars()
        );
        assert!(error.starts_with(expected), "{workspace}\n got {error}\nwant {expected}");
    }
}

const LONG: &str = {
    const BYTES: [u8; 600] = [b'x'; 600];
    match std::str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

#[test]
fn what_cannot_be_done_yet_is_refused_by_name() {
    for (workspace, path) in [
        ("image: {dockerfile: {inline: FROM a}}", "spec.image.dockerfile"),
        ("image: {git: {url: 'https://a'}}", "spec.image.git"),
        ("image: {repository: {devcontainer: {}}}", "spec.image.repository"),
        ("runtime: {devcontainers: {features: [{reference: a}]}}", "spec.runtime.devcontainers.features"),
    ] {
        let error = resolved("{}", workspace, "{}", &[]).unwrap_err();
        assert_eq!(error.path, path);
        assert!(error.message.contains("not supported yet"), "{error}");
    }
    assert_eq!(resolved("gitProvider: a", "{}", "{}", &[]).unwrap_err().path, "spec.gitProvider");
}

#[test]
fn rules_of_template_and_workspace_count_alike() {
    let rules = |rule: &str| format!("runtime: {{network: {{egress: {{rules: [{rule}]}}}}}}");
    let template = rules("{cidrs: [1.1.1.0/24], action: DENY, name: template}");
    let workspace = rules("{cidrs: [1.1.1.0/24, 9.9.9.9/32], action: ALLOW}");
    let egress = resolved(&template, &workspace, "{}", &[]).unwrap().runtime.network.egress;
    assert_eq!(egress.rules.len(), 2);
    let policy = egress.policy(cordium_egress::DefaultAction::Deny, vec!["8.0.0.0/8".to_owned()]);
    let compiled = policy.compile().unwrap();
    let rule = |address: &str| {
        let began = cordium_egress::Moment::at(0);
        let flow = cordium_egress::Flow {
            address: address.parse().unwrap(),
            port: 53,
            protocol: cordium_egress::Protocol::Tcp,
            names: &[],
            began,
        };
        let settled = compiled.decide_again(&flow, cordium_egress::Said::Unasked);
        let cordium_egress::Settled::Decided(ruling) = settled else { panic!("{settled:?}") };
        (ruling.is_allowed(), ruling.rule().to_string())
    };
    assert_eq!(rule("1.1.1.1"), (false, "template".to_owned()));
    assert_eq!(rule("9.9.9.9"), (true, "rules[1]".to_owned()));
    assert_eq!(rule("8.8.8.8"), (false, "protectedNetworks[0]".to_owned()));
    assert_eq!(rule("2.2.2.2"), (false, "default".to_owned()));
}

#[test]
fn every_secret_is_named() {
    let auth = "authentication: {http: {username: u, password: {fromSecret: NAME}}}";
    let workspace = format!(
        "
image: {{registry: {{url: a, authentication: {{username: u, password: {{fromSecret: one}}}}}}}}
repository: {{url: 'https://a', {}}}
additionalRepositories: [{{name: a, repository: {{url: 'https://a', {}}}}}]
runtime: {{envVars: [{{key: A, fromSecret: four}}, {{key: B, value: x}}]}}
",
        auth.replace("NAME", "two"),
        auth.replace("NAME", "three")
    );
    let names = secret_names(&parse_workspace_json(&workspace).unwrap());
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["four", "one", "three", "two"]);
}

#[test]
fn lists_of_all_three_may_be_long_together() {
    let list = |prefix: &str| {
        let entries: Vec<_> = (0..128).map(|i| format!("{{key: {prefix}{i}, value: x}}")).collect();
        format!("runtime: {{envVars: [{}]}}", entries.join(", "))
    };
    let spec = resolved(&list("A"), &list("B"), &list("C"), &[]).unwrap();
    assert_eq!(spec.runtime.env_vars.len(), 384);
    parse_resolved_json(&serde_json::to_string(&spec).unwrap()).unwrap();
}

fn some_runtime() -> impl Strategy<Value = Runtime> {
    let flag = || proptest::option::of(any::<bool>());
    let env = proptest::collection::vec(("[A-C]", "[a-z]{1,3}"), 0..4);
    (env, flag(), flag(), proptest::option::of("[a-z]{1,4}"), 0..3u8).prop_map(
        |(env, auto_stop, read_only, cmd, mode)| {
            let mode =
                [TimeoutMode::ModeUnset, TimeoutMode::Default, TimeoutMode::Disabled][usize::from(mode)];
            Runtime {
                env_vars: env
                    .into_iter()
                    .map(|(key, value)| EnvVar { key, value: Some(value), from_secret: None })
                    .collect(),
                auto_stop,
                cmd,
                filesystem: Filesystem { read_only },
                timeout: RunTimeout { mode },
                ..Runtime::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn merging_runtimes_is_associative(a in some_runtime(), b in some_runtime(), c in some_runtime()) {
        let left = merge::runtime(&merge::runtime(&a, &b), &c);
        let right = merge::runtime(&a, &merge::runtime(&b, &c));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn nothing_changes_nothing(a in some_runtime()) {
        prop_assert_eq!(&merge::runtime(&a, &Runtime::default()), &a);
        prop_assert_eq!(&merge::runtime(&Runtime::default(), &a), &a);
    }

    #[test]
    fn what_is_resolved_is_read_back(runtime in some_runtime(), value in "[a-z$\\{\\}. ]{0,30}") {
        let workspace = WorkspaceSpec { runtime, vars: vec![Var { name: "V".into(), value }], ..WorkspaceSpec::default() };
        let none = BTreeMap::new();
        let spec = resolve(&TemplateSpec::default(), &workspace, &SpaceSpec::default(), &none, &LimitDefaults::default()).unwrap();
        let json = serde_json::to_string(&spec).unwrap();
        let again = parse_resolved_json(&json).unwrap();
        prop_assert_eq!(again, spec);
    }
}

#[test]
fn volume_mounts_are_appended_and_may_not_overlap() {
    let mount = |name: &str, path: &str| {
        format!("runtime: {{volumeMounts: [{{volumeRef: {{name: {name}}}, mountPath: {path}}}]}}")
    };
    let spec = resolved(&mount("a", "/a"), &mount("b", "/b"), "{}", &[]).unwrap();
    let mounts = &spec.runtime.volume_mounts;
    let seen: Vec<_> = mounts.iter().map(|m| (m.volume_ref.name.as_str(), m.mount_path.as_str())).collect();
    assert_eq!(seen, [("a", "/a"), ("b", "/b")]);
    for (below, above) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
        let error = resolved(&mount("a", below), &mount("b", above), "{}", &[]).unwrap_err();
        assert_eq!(error.path, "spec.runtime.volumeMounts[1].mountPath", "{below} {above}");
        assert!(error.message.contains("does not overlap"), "{error}");
    }
}

#[test]
fn the_spaces_egress_is_for_who_does_not_say() {
    let space: SpaceSpec =
        serde_json::from_str(r#"{"runtime":{"network":{"egress":{"defaultAction":"DENY"}}}}"#).unwrap();
    let action = |template: &str, workspace: &str| {
        let of = |action: &str| format!(r#"{{"runtime":{{"network":{{"egress":{{{action}}}}}}}}}"#);
        let template = crate::parse_template_json(&of(template)).unwrap();
        let workspace = crate::parse_workspace_json(&of(workspace)).unwrap();
        let spec = resolve(&template, &workspace, &space, &Default::default(), &Default::default()).unwrap();
        spec.runtime.network.egress.default_action
    };
    let public = r#""defaultAction":"ALLOW_PUBLIC""#;
    assert_eq!(action("", ""), DefaultAction::Deny);
    assert_eq!(action(public, ""), DefaultAction::AllowPublic);
    assert_eq!(action("", public), DefaultAction::AllowPublic);
}
