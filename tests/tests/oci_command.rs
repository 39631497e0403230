//! `cordium-oci`: the OCI command line, by hand and as podman's runtime. As the machine's root, on a root file system of one busybox.

use std::{
    fs,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use cordium_tests::{Result, Suite, ensure, ensure_eq, json, paths};
use serde_json::Value;

/// No call takes longer, unless it hangs.
const LIMIT: &str = "60";

struct Shared {
    dir: PathBuf,
}

impl cordium_tests::suite::TearDown for Shared {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        let left: Vec<Value> = serde_json::from_str(&ok(self.oci(&["list"]))?)?;
        ensure!(left.is_empty(), "containers are left: {left:?}");
        for dir in cgroups_of("") {
            fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
        }
        fs::remove_dir_all(&self.dir).context("removing the bundles")
    }
}

fn main() -> ExitCode {
    Suite::new("oci_command")
        .case("a_container_goes_through_its_states", a_container_goes_through_its_states)
        .case("exec_runs_inside_with_what_it_is_given", exec_runs_inside_with_what_it_is_given)
        .case("exec_joins_a_user_namespace", exec_joins_a_user_namespace)
        .case("exec_hands_over_a_terminal", exec_hands_over_a_terminal)
        .case("seccomp_is_on_init_and_exec", seccomp_is_on_init_and_exec)
        .case("pause_freezes_and_kill_thaws", pause_freezes_and_kill_thaws)
        .case("update_changes_limits", update_changes_limits)
        .case("bad_input_leaves_nothing", bad_input_leaves_nothing)
        .case("the_program_itself_cannot_be_overwritten", the_program_itself_cannot_be_overwritten)
        .case("a_hook_that_fails_late_is_a_warning", a_hook_that_fails_late_is_a_warning)
        .case("features_are_told", features_are_told)
        .case("podman_drives_it", podman_drives_it)
        .run(|| async {
            let dir = paths::scratch().join("oci-command");
            let bin = dir.join("rootfs/bin");
            fs::create_dir_all(&bin)?;
            for name in ["proc", "dev", "sys", "tmp", "etc"] {
                fs::create_dir_all(dir.join("rootfs").join(name))?;
            }
            fs::copy("/bin/busybox", bin.join("busybox")).context("copying busybox")?;
            for applet in ["sh", "sleep", "cat", "id", "true", "tty", "mkdir", "env", "readlink", "grep"] {
                std::os::unix::fs::symlink("busybox", bin.join(applet))?;
            }
            Ok(Shared { dir })
        })
}

impl Shared {
    fn program() -> Result<PathBuf> {
        Ok(paths::built_programs()?.join("cordium-oci"))
    }

    fn oci(&self, args: &[&str]) -> Result<Output> {
        // Its init would hold our pipes: what it says goes to files.
        let out = tempfile::NamedTempFile::new()?;
        let err = tempfile::NamedTempFile::new()?;
        let status = Command::new("timeout")
            .args([LIMIT.as_ref(), Self::program()?.as_os_str()])
            .arg("--root")
            .arg(self.dir.join("state"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(out.reopen()?)
            .stderr(err.reopen()?)
            .status()?;
        Ok(Output { status, stdout: fs::read(out.path())?, stderr: fs::read(err.path())? })
    }

    /// A bundle with this change to a plain spec.
    fn bundle(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<PathBuf> {
        let bundle = self.dir.join(name);
        fs::create_dir_all(&bundle)?;
        let mut spec = json!({
            "ociVersion": "1.1.0",
            "root": {"path": self.dir.join("rootfs"), "readonly": false},
            "hostname": name,
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["sleep", "1000"], "env": ["PATH=/bin"],
                "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
                "noNewPrivileges": true,
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {
                "cgroupsPath": format!("/cordium-oci-test/{name}"),
                "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}],
            },
        });
        change(&mut spec);
        fs::write(bundle.join("config.json"), spec.to_string())?;
        Ok(bundle)
    }

    /// A container of that name that runs.
    fn running(&self, name: &str, change: impl FnOnce(&mut Value)) -> Result<Running<'_>> {
        let bundle = self.bundle(name, change)?;
        ok(self.oci(&["create", "--bundle", text(&bundle)?, name]))?;
        let running = Running { shared: self, name: name.to_owned() };
        ok(self.oci(&["start", name]))?;
        Ok(running)
    }

    fn state(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&ok(self.oci(&["state", name]))?)?)
    }
}

/// Deleted by force when it goes out of scope.
struct Running<'a> {
    shared: &'a Shared,
    name: String,
}

impl Running<'_> {
    fn exec(&self, args: &[&str]) -> Result<Output> {
        self.shared.oci(&[&["exec", self.name.as_str()], args].concat())
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let _ = self.shared.oci(&["delete", "--force", &self.name]);
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is not UTF-8")
}

fn ok(output: Result<Output>) -> Result<String> {
    let output = output?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ended with {}: {stderr}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

fn failure(output: Result<Output>) -> Result<String> {
    let output = output?;
    ensure!(!output.status.success(), "succeeded: {}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.code() != Some(124), "was not done in {LIMIT} s");
    Ok(String::from_utf8(output.stderr)?)
}

/// Where the kernel keeps what the tests' containers leave in any hierarchy.
fn cgroups_of(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroup = |line: &&str| line.split(' ').nth(2).is_some_and(|kind| kind.starts_with("cgroup"));
    let dirs = mounts.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(1));
    dirs.map(|mount| Path::new(mount).join("cordium-oci-test").join(name))
        .filter(|dir| dir.exists())
        .collect()
}

async fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..200 {
        if done()? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("{what} did not happen in 10 s")
}

async fn a_container_goes_through_its_states(s: Arc<Shared>) -> Result<()> {
    let bundle = s.bundle("states", |_| {})?;
    let pid_file = s.dir.join("states.pid");
    ok(s.oci(&["create", "-b", text(&bundle)?, "--pid-file", text(&pid_file)?, "states"]))?;
    let state = s.state("states")?;
    ensure_eq!(state["status"], "created");
    ensure_eq!(state["bundle"], text(&bundle)?);
    let pid = state["pid"].as_i64().context("no pid")?;
    ensure_eq!(fs::read_to_string(&pid_file)?.trim(), pid.to_string());
    ensure!(
        failure(s.oci(&["create", "-b", text(&bundle)?, "states"]))?.contains("exists already"),
        "made twice"
    );
    ok(s.oci(&["start", "states"]))?;
    wait_for("the program's start", || {
        Ok(fs::read_to_string(format!("/proc/{pid}/cmdline"))?.starts_with("sleep"))
    })
    .await?;
    ensure!(failure(s.oci(&["start", "states"]))?.contains("created"), "started twice");
    ensure!(failure(s.oci(&["delete", "states"]))?.contains("--force"), "deleted although it runs");
    ensure!(!cgroups_of("states").is_empty(), "it has no cgroup");
    ok(s.oci(&["kill", "states", "KILL"]))?;
    wait_for("its end", || Ok(s.state("states")?["status"] == "stopped")).await?;
    ensure!(failure(s.oci(&["kill", "states", "TERM"]))?.contains("stopped"), "killed although stopped");
    ok(s.oci(&["delete", "states"]))?;
    ensure!(failure(s.oci(&["state", "states"]))?.contains("does not exist"), "is still there");
    ensure_eq!(cgroups_of("states"), Vec::<PathBuf>::new());
    // Engines delete by force what may not be there.
    ok(s.oci(&["delete", "--force", "states"])).map(drop)
}

async fn exec_runs_inside_with_what_it_is_given(s: Arc<Shared>) -> Result<()> {
    let c = s.running("exec", |_| {})?;
    ensure_eq!(ok(c.exec(&["cat", "/proc/sys/kernel/hostname"]))?.trim(), "exec");
    let status = ok(c.exec(&["grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|NSpid)", "/proc/self/status"]))?;
    for line in ["CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "NoNewPrivs:\t1"] {
        ensure!(status.contains(line), "{line} is not in {status}");
    }
    let flags = ["exec", "--user", "5:6", "--cwd", "/tmp", "--env", "A=b c", "exec", "sh", "-c"];
    let said = ok(s.oci(&[&flags[..], &["id -u; id -g; pwd; echo $A $PATH"]].concat()))?;
    ensure_eq!(said, "5\n6\n/tmp\nb c /bin\n");
    ensure_eq!(c.exec(&["sh", "-c", "exit 7"])?.status.code(), Some(7));
    ensure_eq!(c.exec(&["sh", "-c", "kill -9 $$"])?.status.code(), Some(137));
    ensure!(failure(c.exec(&["no-such-program"]))?.contains("not found in PATH"), "a program was found");
    // It is in the container's cgroups, where its limits are.
    let inside = ok(c.exec(&["cat", "/proc/self/cgroup"]))?;
    ensure!(inside.contains("/cordium-oci-test/exec"), "it is not in the container's cgroups: {inside}");
    Ok(())
}

async fn exec_joins_a_user_namespace(s: Arc<Shared>) -> Result<()> {
    let c = s.running("userns", |spec| {
        let all = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        spec["linux"]["uidMappings"] = all.clone();
        spec["linux"]["gidMappings"] = all;
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.push(json!({"type": "user"}));
        }
    })?;
    let map = ok(c.exec(&["cat", "/proc/self/uid_map"]))?;
    ensure_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "100000", "1000"]);
    let pid = s.state("userns")?["pid"].to_string();
    let namespace =
        |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).map(|link| link.display().to_string());
    let inside = ok(c.exec(&["readlink", "/proc/self/ns/user"]))?;
    ensure_eq!(inside.trim(), namespace(&pid)?);
    ensure!(inside.trim() != namespace("self")?, "it is the machine's");
    Ok(())
}

async fn exec_hands_over_a_terminal(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("tty", |_| {})?;
    let path = s.dir.join("console");
    let listener = UnixListener::bind(&path)?;
    let receiver = tokio::task::spawn_blocking(move || receive_descriptor(&listener));
    let args = ["exec", "--tty", "--detach", "--console-socket", text(&path)?, "tty", "sh", "-c", "tty; cat"];
    ok(s.oci(&args))?;
    let mut terminal = tokio::time::timeout(Duration::from_secs(20), receiver).await???;
    let said = tokio::task::spawn_blocking(move || -> Result<String> {
        terminal.write_all(b"hello\n")?;
        let mut said = String::new();
        let mut chunk = [0; 256];
        // Echoed by the terminal, then said by cat.
        while said.matches("hello").count() < 2 {
            let count = terminal.read(&mut chunk)?;
            ensure!(count > 0, "the terminal was closed after {said:?}");
            said.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        Ok(said)
    });
    let said = tokio::time::timeout(Duration::from_secs(20), said).await???;
    ensure!(said.contains("/dev/pts/"), "no terminal of the container: {said:?}");
    let refused = failure(s.oci(&["exec", "--tty", "tty", "true"]))?;
    ensure!(refused.contains("console socket"), "{refused}");
    Ok(())
}

fn receive_descriptor(listener: &UnixListener) -> Result<fs::File> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept()?;
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            return Ok(descriptors.next().context("no descriptor came")?.into());
        }
    }
    anyhow::bail!("no descriptor came")
}

async fn seccomp_is_on_init_and_exec(s: Arc<Shared>) -> Result<()> {
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

async fn pause_freezes_and_kill_thaws(s: Arc<Shared>) -> Result<()> {
    let c = s.running("pause", |_| {})?;
    ok(s.oci(&["pause", "pause"]))?;
    ensure_eq!(s.state("pause")?["status"], "paused");
    ensure!(failure(c.exec(&["true"]))?.contains("paused"), "exec in a paused container");
    ok(s.oci(&["resume", "pause"]))?;
    ensure_eq!(s.state("pause")?["status"], "running");
    ok(c.exec(&["true"]))?;
    ok(s.oci(&["pause", "pause"]))?;
    ok(s.oci(&["kill", "pause", "SIGKILL"]))?;
    wait_for("its end", || Ok(s.state("pause")?["status"] == "stopped")).await
}

async fn update_changes_limits(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("update", |_| {})?;
    ok(s.oci(&["update", "--pids-limit", "77", "--memory", "67108864", "update"]))?;
    let read = |file: &str| -> Vec<String> {
        let dirs = cgroups_of("update").into_iter();
        dirs.filter_map(|dir| fs::read_to_string(dir.join(file)).ok()).map(|t| t.trim().to_owned()).collect()
    };
    ensure_eq!(read("pids.max"), ["77"]);
    let memory = [read("memory.max"), read("memory.limit_in_bytes")].concat();
    ensure_eq!(memory, ["67108864"]);
    ensure!(failure(s.oci(&["update", "update"]))?.contains("nothing to update"), "nothing was an update");
    Ok(())
}

async fn bad_input_leaves_nothing(s: Arc<Shared>) -> Result<()> {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, &str); 8] = [
        ("no-program", |spec| spec["process"]["args"] = json!(["nothing"]), "not found in PATH"),
        ("no-args", |spec| spec["process"]["args"] = json!([]), "process.args"),
        ("no-root", |spec| spec["root"] = Value::Null, "root"),
        ("root-is-not-there", |spec| spec["root"]["path"] = json!("/no/such/dir"), "No such file"),
        ("relative-cwd", |spec| spec["process"]["cwd"] = json!("tmp"), "cwd"),
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
async fn the_program_itself_cannot_be_overwritten(s: Arc<Shared>) -> Result<()> {
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

async fn a_hook_that_fails_late_is_a_warning(s: Arc<Shared>) -> Result<()> {
    let bundle = s.bundle("hooks", |spec| {
        let gone = json!([{"path": "/no/such/program"}]);
        spec["hooks"] = json!({"poststart": gone, "poststop": gone});
    })?;
    ok(s.oci(&["create", "-b", text(&bundle)?, "hooks"]))?;
    let started = s.oci(&["start", "hooks"])?;
    ensure!(String::from_utf8_lossy(&started.stderr).contains("poststart"), "no warning: {started:?}");
    ok(Ok(started))?;
    ensure_eq!(s.state("hooks")?["status"], "running");
    let deleted = s.oci(&["delete", "--force", "hooks"])?;
    ensure!(String::from_utf8_lossy(&deleted.stderr).contains("poststop"), "no warning: {deleted:?}");
    ok(Ok(deleted))?;
    ensure!(failure(s.oci(&["state", "hooks"]))?.contains("does not exist"), "is still there");
    Ok(())
}

async fn features_are_told(s: Arc<Shared>) -> Result<()> {
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

async fn podman_drives_it(s: Arc<Shared>) -> Result<()> {
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
