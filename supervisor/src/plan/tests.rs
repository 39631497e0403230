#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cordium_proto::v1::{StartRequest, UserSettings, Volume};
use oci_spec::image::{ConfigBuilder, ImageConfiguration, ImageConfigurationBuilder};

use super::*;
use crate::request_error::RequestError;

fn asked() -> Asked {
    Asked {
        uid: "u-1".into(),
        name: "demo".into(),
        space: "default".into(),
        run_id: "r-1".into(),
        user: UserSettings {
            dotfiles_url: "https://example.org/dots".into(),
            dotfiles_branch: "main".into(),
        },
        started_by: Some("uid 1000".into()),
        template: None,
        volumes: vec![Volume { uid: "v-1".into(), name: "data".into(), exclusive: true, size_mib: 100 }],
    }
}

fn secrets() -> Secrets {
    let values = [("token", "s3cret"), ("pw", "pass")];
    Secrets::new(values.map(|(k, v)| (k.to_owned(), bytes::Bytes::from(v))).into()).unwrap()
}

fn plan_of(spec: &str) -> Result<RunPlan, RequestError> {
    let spec = cordium_spec::parse_workspace_json(spec).unwrap();
    run_plan(&asked(), &spec, &secrets(), None)
}

fn image(entrypoint: &[&str], cmd: &[&str]) -> ImageConfiguration {
    let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let config = ConfigBuilder::default()
        .entrypoint(words(entrypoint))
        .cmd(words(cmd))
        .env(words(&["PATH=/bin", "broken", "A=b=c"]))
        .user("app".to_owned())
        .working_dir("/srv".to_owned())
        .build()
        .unwrap();
    ImageConfigurationBuilder::default()
        .config(config)
        .architecture("amd64")
        .os("linux")
        .rootfs(
            oci_spec::image::RootFsBuilder::default()
                .typ("layers")
                .diff_ids(Vec::<String>::new())
                .build()
                .unwrap(),
        )
        .build()
        .unwrap()
}

const IMAGE: &str = r#""image":{"registry":{"url":"127.0.0.1:5000/base:1"}}"#;

#[test]
fn a_spec_becomes_what_the_agent_is_told() {
    let plan = plan_of(
        r#"{"image":{"registry":{"url":"127.0.0.1:5000/base:1","authentication":{"username":"me","password":{"fromSecret":"pw"}}}},
            "repository":{"url":"https://example.org/a.git","cloneOptions":{"branch":"dev","depth":3,"disableLazyUnshallow":true},
              "authentication":{"http":{"username":"bot","password":{"fromSecret":"token"}}}},
            "additionalRepositories":[{"name":"lib","repository":{"url":"https://example.org/lib.git"}}],
            "limit":{"cpu":{"millicores":1500},"memory":{"megabytes":1024},"storage":{"megabytes":2000},"pids":512},
            "isEphemeral":true,
            "runtime":{"envVars":[{"key":"PLAIN","value":"x"},{"key":"SECRET","fromSecret":"token"}],
              "tasks":[{"name":"t","run":"echo hi","type":"POST_START","onFailure":"ON_FAILURE_ABORT","timeout":"90s",
                        "isBackground":true,"runAsRoot":true,"workingDir":"/srv","envVars":[{"key":"T","value":"1"}]}],
              "autoStop":true,"filesystem":{"readOnly":true}}}"#,
    )
    .unwrap();
    let login = plan.login.as_ref().unwrap();
    assert_eq!((login.username.as_str(), login.password.as_str()), ("me", "pass"));
    assert!(plan.ephemeral);
    let limit = Limit {
        cpu_millicores: 1500,
        memory_mib: 1024,
        storage_mib: 2000,
        inodes: 128_000,
        pids: 512,
        io_weight: 100,
        ..Limit::default()
    };
    assert_eq!(plan.limit, limit);
    let prepare = finish_prepare(&plan, &image(&[], &["sh"]), true, Duration::from_secs(7)).unwrap();
    let env: Vec<_> = prepare.env.iter().map(|v| (v.key.as_str(), v.value.as_str())).collect();
    assert_eq!(
        env[..4],
        [
            ("PLAIN", "x"),
            ("SECRET", "s3cret"),
            ("CORDIUM_NAME", "demo"),
            ("CORDIUM_HOSTNAME", "demo.cordium.local")
        ]
    );
    let image_env: Vec<_> = prepare.image_env.iter().map(|v| (v.key.as_str(), v.value.as_str())).collect();
    assert_eq!(image_env, [("PATH", "/bin"), ("A", "b=c")]);
    let repository = prepare.repository.unwrap();
    assert_eq!(
        (repository.path.as_str(), repository.branch.as_str(), repository.depth),
        ("/workspace/repo", "dev", 3)
    );
    assert_eq!((repository.username.as_str(), repository.password.as_str()), ("bot", "s3cret"));
    assert!(repository.disable_unshallow);
    assert_eq!(prepare.additional_repositories[0].path, "/workspace/additional-repos/lib");
    let task = &prepare.tasks[0];
    assert_eq!((task.timeout_ms, task.background, task.run_as_root), (90_000, true, true));
    assert_eq!(task.on_failure(), cordium_proto::v1::OnFailure::Abort);
    assert_eq!((prepare.fresh, prepare.auto_stop, prepare.read_only_root), (true, true, true));
    assert_eq!((prepare.startup_timeout_ms, prepare.main), (7000, None));
    assert_eq!(prepare.dotfiles.unwrap().branch, "main");
}

#[test]
fn the_main_process_follows_the_table() {
    let argv = |spec: &str, entrypoint: &[&str], cmd: &[&str]| {
        let plan = plan_of(&format!(r#"{{{IMAGE},"runtime":{spec}}}"#)).unwrap();
        let prepare = finish_prepare(&plan, &image(entrypoint, cmd), false, Duration::from_secs(1)).unwrap();
        prepare.main.map(|main| main.argv.join(" "))
    };
    let idle = "/run/cordium/bin/cordium-agent idle";
    assert_eq!(argv("{}", &[], &["bash"]), None);
    assert_eq!(argv("{}", &["tini", "--"], &["bash"]), Some(format!("tini -- {idle}")));
    assert_eq!(
        argv(r#"{"cmd":"sh -c 'sleep 1'"}"#, &["tini", "--"], &["x"]).unwrap(),
        "tini -- sh -c sleep 1"
    );
    assert_eq!(
        argv(r#"{"entrypoint":"/usr/bin/env"}"#, &["tini"], &["sleep", "9"]).unwrap(),
        "/usr/bin/env sleep 9"
    );
    assert_eq!(argv(r#"{"cmd":"sleep 9"}"#, &[], &[]).unwrap(), "sleep 9");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let plan = plan_of(&format!(
        r#"{{{IMAGE},"runtime":{{"capabilities":{{"add":["SYS_PTRACE"],"drop":["CAP_SYS_CHROOT"]}}}}}}"#
    ))
    .unwrap();
    let has = |name: &str| plan.capabilities.iter().any(|c| c == name);
    assert!(has("CAP_SYS_PTRACE") && has("CAP_NET_ADMIN") && !has("CAP_SYS_CHROOT"));
    assert!(!plan_of(&format!("{{{IMAGE}}}")).unwrap().capabilities.iter().any(|c| c == "CAP_SYS_PTRACE"));
}

#[test]
fn what_cannot_be_served_is_refused_by_name() {
    let text = |spec: &str| plan_of(spec).err().unwrap().to_string();
    assert!(text("{}").contains("spec.image"));
    assert!(text(r#"{"image":{"dockerfile":{"inline":"FROM x"}}}"#).contains("spec.image.dockerfile"));
    let secret = format!(r#"{{{IMAGE},"runtime":{{"envVars":[{{"key":"K","fromSecret":"nope"}}]}}}}"#);
    assert!(text(&secret).contains("\"nope\""));
}

#[test]
fn names_that_are_not_plain_are_refused() {
    let request = |uid: &str, name: &str| StartRequest {
        workspace_uid: uid.into(),
        workspace_name: name.into(),
        run_id: "r".into(),
        ..StartRequest::default()
    };
    assert!(Asked::from_request(&request("a-1", "demo")).is_ok());
    for (uid, name) in
        [("../x", "demo"), ("", "demo"), ("a", "Demo"), ("a", "-x"), ("a", ""), ("a/b", "x"), ("a", "x.y")]
    {
        assert!(Asked::from_request(&request(uid, name)).is_err(), "{uid} {name}");
    }
}
