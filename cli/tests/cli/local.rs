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
