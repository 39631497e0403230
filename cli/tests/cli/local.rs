//! Commands that need no supervisor.

use std::path::PathBuf;

use serde_json::Value;

use crate::fake::Cordium;

fn alone() -> (tempfile::TempDir, Cordium) {
    let dir = tempfile::tempdir().unwrap();
    let cordium = Cordium { dir: PathBuf::from(dir.path()) };
    (dir, cordium)
}

#[tokio::test]
async fn version_without_a_supervisor() {
    let (_dir, cordium) = alone();
    let o = cordium.run(&["version"]).await;
    assert_eq!((o.code, o.out.contains("server  not running")), (0, true));
}

#[tokio::test]
async fn no_supervisor_is_an_error_with_a_next_step() {
    let (_dir, cordium) = alone();
    for (args, code) in [(&["get", "ws"][..], 1), (&["exec", "dev", "--", "ls"], 125), (&["status"], 1)] {
        let o = cordium.run(args).await;
        assert_eq!(o.code, code);
        assert!(
            o.err.starts_with("error: no supervisor answers on ") && o.err.contains("\nhint: "),
            "{}",
            o.err
        );
    }
}

#[tokio::test]
async fn schemas_and_completions() {
    let (_dir, cordium) = alone();
    for kind in ["workspace", "template", "space"] {
        let schema: Value = serde_json::from_str(&cordium.run(&["schema", kind]).await.out).unwrap();
        assert_eq!(schema["properties"]["kind"]["const"].as_str().unwrap().to_lowercase(), kind);
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(cordium.run(&["completion", shell]).await.out.contains("cordium"));
    }
    assert_eq!(cordium.run(&["completion", "nosuch"]).await.code, 2);
}

#[tokio::test]
async fn doctor_really_tries_and_prints_a_fix_for_each_fault() {
    let (dir, cordium) = alone();
    let state = dir.path().join("state");
    let o = cordium.run(&["doctor", "-o", "json", "--state-dir", state.to_str().unwrap()]).await;
    let report: Value = serde_json::from_str(&o.out).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|c| c["level"] == "failed").count();
    assert_eq!(o.code, i32::from(failed > 0), "{}", o.out);
    assert_eq!(report["ok"], failed == 0);
    for check in checks.iter().filter(|c| c["level"] != "ok") {
        assert!(check["fix"].as_str().is_some_and(|f| !f.is_empty()), "{check}");
    }
    for name in
        ["kernel", "user namespace", "overlay in a user namespace", "seccomp", "disk space", "supervisor"]
    {
        assert!(checks.iter().any(|c| c["name"] == name), "{name}");
    }
    // The probe leaves nothing behind.
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn setup_refuses_root_and_unknown_users() {
    let (_dir, cordium) = alone();
    let o = cordium.run(&["setup", "--user", "surely-not-there", "--dry-run"]).await;
    assert_eq!(o.code, 2);
    assert!(o.err.contains("hint: sudo useradd"), "{}", o.err);
    assert_eq!(cordium.run(&["setup", "--user", "root", "--dry-run"]).await.code, 2);
}

#[tokio::test]
async fn a_dry_run_of_setup_changes_nothing() {
    let (_dir, cordium) = alone();
    let before = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let o = cordium.run(&["setup", "--user", "nobody", "--dry-run"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert_eq!(std::fs::read_to_string("/etc/subuid").unwrap_or_default(), before);
}

/// What `setup --dry-run` and `doctor` say of the ids of `nobody` where both files have these lines.
fn with_subordinate_ids(lines: &str) -> (std::process::Output, Value) {
    let (dir, cordium) = alone();
    let file = dir.path().join("subids");
    std::fs::write(&file, lines).unwrap();
    let script = r#"mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && exec "$@""#;
    let run = |args: &[&str]| {
        std::process::Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh"])
            .arg(&file)
            .arg(env!("CARGO_BIN_EXE_cordium"))
            .args(args)
            .env("CORDIUM_SOCKET", cordium.dir.join("cordium.sock"))
            .env("NO_COLOR", "1")
            .env("CORDIUM_STATE_DIR", &cordium.dir)
            .output()
            .unwrap()
    };
    let doctor = run(&["doctor", "--user", "nobody", "-o", "json"]);
    let found: Value = serde_json::from_slice(&doctor.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&doctor.stderr)));
    (run(&["setup", "--user", "nobody", "--dry-run"]), found)
}

fn ids_found(doctor: &Value) -> Vec<[&str; 2]> {
    let checks = doctor["checks"].as_array().unwrap().iter();
    let of_ids = checks.filter(|check| check["name"].as_str().unwrap().starts_with("subordinate "));
    of_ids.map(|check| [check["level"].as_str().unwrap(), check["found"].as_str().unwrap()]).collect()
}

#[test]
fn a_user_with_one_range_is_given_more_of_them() {
    let (setup, doctor) = with_subordinate_ids("nobody:100000:65536\nsomeone:165536:65536\n");
    let shared = "1 range of 65536 ids from 100000 for nobody: all workspaces share it";
    assert_eq!(ids_found(&doctor), [["warning", shared]; 2]);
    let said = String::from_utf8_lossy(&setup.stdout);
    for file in ["/etc/subuid", "/etc/subgid"] {
        let line = format!("nobody:231072:4128768 to {file}, which then has 64 ranges of 65536 ids\n");
        assert!(said.contains(&format!("would add  {line}")), "{said}");
    }
    assert!(setup.status.success() && setup.stderr.is_empty(), "{setup:?}");
}

#[test]
fn a_user_with_enough_ranges_keeps_them() {
    let (setup, doctor) = with_subordinate_ids("nobody:100000:3000000\n65534:5000000:2000000\n");
    let enough = "75 ranges of 65536 ids from 100000 for nobody";
    assert_eq!(ids_found(&doctor), [["ok", enough]; 2]);
    let said = String::from_utf8_lossy(&setup.stdout);
    assert!(said.contains("ok    /etc/subuid has 75 ranges of 65536 ids for nobody\n"), "{said}");
    assert!(!said.contains("/etc/subuid, which then"), "{said}");
}

#[test]
fn where_there_is_no_room_one_range_is_shared_and_none_is_an_error() {
    let full = "someone:165536:4294801759\n";
    let (setup, _) = with_subordinate_ids(&format!("nobody:100000:65536\n{full}"));
    let warned = String::from_utf8_lossy(&setup.stderr);
    assert!(
        setup.status.success() && warned.contains("/etc/subuid has room for one range only"),
        "{setup:?}"
    );
    let (setup, doctor) = with_subordinate_ids(&format!("other:100000:65536\n{full}"));
    assert_eq!(
        ids_found(&doctor),
        [
            ["failed", "no range of 65536 ids for nobody in /etc/subuid"],
            ["failed", "no range of 65536 ids for nobody in /etc/subgid"]
        ]
    );
    let said = String::from_utf8_lossy(&setup.stderr);
    assert!(
        !setup.status.success() && said.contains("/etc/subuid has no room for 65536 ids for nobody"),
        "{setup:?}"
    );
}
