//! What is refused, what is not let through, and what others make of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cordium_tests::{Result, ensure, ensure_eq, json};
use serde_json::Value;

use crate::ground::{LIMIT, Running, Shared, cgroups_of, failure, ok, text};

pub async fn seccomp_is_on_init_and_exec(s: Arc<Shared>) -> Result<()> {
    for (name, no_new_privileges) in [("seccomp-nnp", true), ("seccomp-lent", false)] {
        let c = s.running(name, |spec| {
            spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
            spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        })?;
        let init = fs::read_to_string(format!("/proc/{}/status", s.state(name)?["pid"]))?;
        let inside = ok(c.exec(&["cat", "/proc/self/status"]))?;
        for status in [&init, &inside] {
            for line in ["Seccomp:\t2", "CapPrm:\t0000000000000020", "CapBnd:\t0000000000000020"] {
                ensure!(status.contains(line), "{name}: {line} is not in {status}");
            }
        }
        ensure!(inside.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{inside}");
        ensure!(
            failure(c.exec(&["mkdir", "/tmp/x"]))?.contains("No space left"),
            "{name}: mkdir was not refused"
        );
    }
    Ok(())
}

pub async fn bad_input_leaves_nothing(s: Arc<Shared>) -> Result<()> {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 10] = [
        ("no-program", |spec| spec["process"]["args"] = json!(["nothing"]), "not found in PATH"),
        ("no-args", |spec| spec["process"]["args"] = json!([]), "process.args"),
        ("no-root", |spec| spec["root"] = Value::Null, "root"),
        ("root-is-not-there", |spec| spec["root"]["path"] = json!("/no/such/dir"), "No such file"),
        ("relative-cwd", |spec| spec["process"]["cwd"] = json!("tmp"), "cwd"),
        ("cgroup-root", |spec| spec["linux"]["cgroupsPath"] = json!("/"), "cgroupsPath"),
        ("cgroup-up", |spec| spec["linux"]["cgroupsPath"] = json!("/a/../.."), "cgroupsPath"),
        ("capability", |spec| spec["process"]["capabilities"]["bounding"] = json!(["CAP_NONE"]), "CAP_NONE"),
        (
            "notify",
            |spec| {
                spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]});
            },
            "not supported",
        ),
        (
            "mount",
            |spec| spec["mounts"][0] = json!({"destination": "/x", "type": "nofs", "source": "nofs"}),
            "mount",
        ),
    ];
    for (name, change, words) in cases {
        let bundle = s.bundle(name, change)?;
        let said = failure(s.oci(&["create", "-b", text(&bundle)?, name]))?;
        ensure!(said.contains(words), "{name}: {words:?} is not in {said:?}");
        ensure_eq!(said.trim_end().lines().count(), 1);
        ensure_eq!(cgroups_of(name), Vec::<PathBuf>::new());
        ensure!(failure(s.oci(&["state", name]))?.contains("does not exist"), "{name} is still there");
    }
    let bundle = s.bundle("ids", |_| {})?;
    for id in ["", "..", "a/b", "a b"] {
        let said = failure(s.oci(&["create", "-b", text(&bundle)?, "--", id]))?;
        ensure!(said.contains("container id"), "{id:?}: {said}");
    }
    fs::write(bundle.join("config.json"), "{")?;
    ensure!(failure(s.oci(&["create", "-b", text(&bundle)?, "ids"]))?.contains("config.json"), "half a spec");
    ensure!(failure(s.oci(&["create", "-b", "/no/such/dir", "ids"]))?.contains("/no/such/dir"), "no bundle");
    let log = s.dir.join("log");
    failure(s.oci(&["--log", text(&log)?, "--log-format", "json", "state", "none"]))?;
    let logged: Value = serde_json::from_str(&fs::read_to_string(&log)?)?;
    ensure!(logged["msg"].as_str().is_some_and(|text| text.contains("does not exist")), "{logged}");
    Ok(())
}

/// As in CVE-2019-5736: from inside, `/proc/<pid>/exe` of init before its program runs, or of a program that is
/// `/proc/self/exe`, must not lead to the file on the machine.
pub async fn the_program_itself_cannot_be_overwritten(s: Arc<Shared>) -> Result<()> {
    let bundle = s.bundle("overwrite", |_| {})?;
    ok(s.oci(&["create", "-b", text(&bundle)?, "overwrite"]))?;
    let c = Running { shared: &s, name: "overwrite".to_owned() };
    let exe = fs::read_link(format!("/proc/{}/exe", s.state("overwrite")?["pid"]))?;
    ensure!(exe.starts_with("/memfd:cordium-oci (deleted)"), "init runs from {}", exe.display());
    ok(s.oci(&["start", "overwrite"]))?;
    let said = ok(c.exec(&["/proc/self/exe", "--version"]))?;
    ensure!(said.starts_with("cordium-oci"), "the link did not lead to our program: {said}");
    Ok(())
}

pub async fn a_hook_that_fails_late_is_a_warning(s: Arc<Shared>) -> Result<()> {
    let (after_start, after_stop) = (s.dir.join("hooks.start"), s.dir.join("hooks.stop"));
    let bundle = s.bundle("hooks", |spec| {
        let hooks = |file: &Path| json!([{"path": "/no/such/program"}, {"path": "/bin/touch", "args": ["touch", file]}]);
        spec["hooks"] = json!({"poststart": hooks(&after_start), "poststop": hooks(&after_stop)});
    })?;
    ok(s.oci(&["create", "-b", text(&bundle)?, "hooks"]))?;
    let started = s.oci(&["start", "hooks"])?;
    ensure!(String::from_utf8_lossy(&started.stderr).contains("poststart"), "no warning: {started:?}");
    ok(Ok(started))?;
    ensure_eq!(s.state("hooks")?["status"], "running");
    ensure!(after_start.exists() && !after_stop.exists(), "the hook after one that failed was not run");
    let deleted = s.oci(&["delete", "--force", "hooks"])?;
    ensure!(String::from_utf8_lossy(&deleted.stderr).contains("poststop"), "no warning: {deleted:?}");
    ok(Ok(deleted))?;
    ensure!(after_stop.exists(), "the hook after one that failed was not run");
    ensure!(failure(s.oci(&["state", "hooks"]))?.contains("does not exist"), "is still there");
    Ok(())
}

pub async fn features_are_told(s: Arc<Shared>) -> Result<()> {
    let features: Value = serde_json::from_str(&ok(s.oci(&["features"]))?)?;
    ensure_eq!(features["linux"]["seccomp"]["enabled"], true);
    let has = |list: &Value, word: &str| list.as_array().is_some_and(|list| list.iter().any(|w| w == word));
    ensure!(
        has(&features["mountOptions"], "ro") && has(&features["linux"]["namespaces"], "user"),
        "{features}"
    );
    ensure!(failure(s.oci(&["--systemd-cgroup", "list"]))?.contains("systemd"), "systemd was accepted");
    Ok(())
}

pub async fn podman_drives_it(s: Arc<Shared>) -> Result<()> {
    let conf = s.dir.join("containers.conf");
    // Without CAP_SYS_RESOURCE the default limits cannot be set.
    let settings = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n\
                    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
    fs::write(&conf, settings)?;
    let podman = |args: &[&str]| -> Result<String> {
        let mut command = Command::new("timeout");
        command.args([LIMIT, "podman", "--root"]).arg(s.dir.join("podman"));
        command.arg("--runroot").arg(s.dir.join("podman-run")).arg("--runtime").arg(Shared::program()?);
        cordium_tests::process::run(command.args(args).env("CONTAINERS_CONF", &conf))
    };
    cordium_tests::hybrid::mount_hugetlb();
    let archive = s.dir.join("rootfs.tar");
    let mut tar = Command::new("tar");
    cordium_tests::process::run(tar.arg("-C").arg(s.dir.join("rootfs")).arg("-cf").arg(&archive).arg("."))?;
    podman(&["import", "--quiet", text(&archive)?, "localhost/oci-command"])?;
    let run = [
        "run",
        "--rm",
        "--network",
        "none",
        "localhost/oci-command",
        "grep",
        "Seccomp:",
        "/proc/self/status",
    ];
    let tried = podman(&run).map(|said| said.trim().to_owned());
    let outcome = async {
        ensure_eq!(tried?, "Seccomp:\t2");
        podman(&[
            "run",
            "--detach",
            "--name",
            "box",
            "--network",
            "none",
            "--pids-limit",
            "20",
            "localhost/oci-command",
            "sleep",
            "1000",
        ])?;
        ensure_eq!(podman(&["exec", "box", "sh", "-c", "echo inside"])?.trim(), "inside");
        podman(&["stop", "--time", "0", "box"])?;
        podman(&["rm", "box"]).map(drop)
    };
    let outcome: Result<()> = outcome.await;
    let _ = podman(&["rm", "--force", "--all", "--time", "0"]);
    let _ = podman(&["rmi", "--force", "--all"]);
    // podman leaves its overlay directory mounted on itself.
    let _ = cordium_tests::process::sh("umount", &[text(&s.dir.join("podman/overlay"))?]);
    outcome
}
