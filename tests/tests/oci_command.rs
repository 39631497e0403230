//! `cordium-oci`: the OCI command line, by hand and as podman's runtime. As the machine's root, on a root file system of one busybox.

use std::{
    fs,
    io::{IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
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
        .case("exec_gives_descriptors_only_when_asked", exec_gives_descriptors_only_when_asked)
        .case("exec_stays_in_the_root", exec_stays_in_the_root)
        .case("exec_enters_every_cgroup_or_does_not_run", exec_enters_every_cgroup_or_does_not_run)
        .case(
            "exec_writes_nothing_through_the_containers_proc",
            exec_writes_nothing_through_the_containers_proc,
        )
        .case("exec_refuses_what_it_cannot_do", exec_refuses_what_it_cannot_do)
        .case("a_home_is_looked_up_without_waiting", a_home_is_looked_up_without_waiting)
        .case("exec_joins_a_user_namespace", exec_joins_a_user_namespace)
        .case("exec_hands_over_a_terminal", exec_hands_over_a_terminal)
        .case("seccomp_is_on_init_and_exec", seccomp_is_on_init_and_exec)
        .case("pause_freezes_and_kill_thaws", pause_freezes_and_kill_thaws)
        .case("kill_all_reaches_what_is_made_meanwhile", kill_all_reaches_what_is_made_meanwhile)
        .case("another_process_with_inits_number_is_not_it", another_process_with_inits_number_is_not_it)
        .case("update_changes_limits", update_changes_limits)
        .case("bad_input_leaves_nothing", bad_input_leaves_nothing)
        .case("the_program_itself_cannot_be_overwritten", the_program_itself_cannot_be_overwritten)
        .case("a_hook_that_fails_late_is_a_warning", a_hook_that_fails_late_is_a_warning)
        .case("features_are_told", features_are_told)
        .case("podman_drives_it", podman_drives_it)
        .run(|| async {
            let dir = paths::scratch().join("oci-command");
            lay_out(&dir.join("rootfs"))?;
            Ok(Shared { dir })
        })
}

fn lay_out(rootfs: &Path) -> Result<()> {
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin)?;
    for name in ["proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(rootfs.join(name))?;
    }
    fs::copy("/bin/busybox", bin.join("busybox")).context("copying busybox")?;
    for applet in ["sh", "sleep", "cat", "id", "true", "tty", "mkdir", "env", "readlink", "grep"] {
        symlink("busybox", bin.join(applet))?;
    }
    Ok(())
}

impl Shared {
    fn program() -> Result<PathBuf> {
        Ok(paths::built_programs()?.join("cordium-oci"))
    }

    fn oci(&self, args: &[&str]) -> Result<Output> {
        self.oci_after(":", args)
    }

    /// The same, from a shell that has done this before.
    fn oci_after(&self, preparation: &str, args: &[&str]) -> Result<Output> {
        // Its init would hold our pipes: what it says goes to files.
        let out = tempfile::NamedTempFile::new()?;
        let err = tempfile::NamedTempFile::new()?;
        let status = Command::new("timeout")
            .args([LIMIT, "sh", "-c", &format!("{preparation}; exec \"$0\" \"$@\"")])
            .arg(Self::program()?)
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

    /// A root file system of its own for a container.
    fn own_rootfs(&self, name: &str) -> Result<PathBuf> {
        let rootfs = self.dir.join(format!("rootfs-{name}"));
        lay_out(&rootfs)?;
        Ok(rootfs)
    }

    /// A file that describes a process for `exec --process`: the container's with these changes.
    fn process_file(&self, name: &str, changes: &Value) -> Result<PathBuf> {
        let config: Value =
            serde_json::from_str(&fs::read_to_string(self.dir.join(name).join("config.json"))?)?;
        let mut process = config["process"].clone();
        for (key, value) in changes.as_object().context("the changes are no object")? {
            process[key] = value.clone();
        }
        let file = self.dir.join(format!("{name}-process.json"));
        fs::write(&file, process.to_string())?;
        Ok(file)
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

async fn exec_gives_descriptors_only_when_asked(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("descriptors", |_| {})?;
    let open = "exec 3</etc 9</etc";
    let look = |given: &'static str, number: u8| {
        let link = format!("/proc/self/fd/{number}");
        s.oci_after(open, &["exec", "--preserve-fds", given, "descriptors", "readlink", &link])
    };
    ensure_eq!(ok(look("1", 3))?.trim(), "/etc");
    for (given, number) in [("0", 3), ("0", 9), ("1", 9)] {
        ensure_eq!(look(given, number)?.status.code(), Some(1));
    }
    for number in ["-3", "2147483647"] {
        let flag = format!("--preserve-fds={number}");
        ensure!(failure(s.oci(&["exec", &flag, "descriptors", "true"]))?.contains("descriptors"), "{number}");
        let bundle = s.bundle("descriptors-none", |_| {})?;
        let made = s.oci(&["create", &flag, "-b", text(&bundle)?, "descriptors-none"]);
        ensure!(failure(made)?.contains("descriptors"), "{number}");
    }
    Ok(())
}

/// As in CVE-2024-21626.
async fn exec_stays_in_the_root(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("cwd", |_| {})?;
    let outside = ["exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", "cwd", "cat", "passwd"];
    let said = failure(s.oci_after("exec 3</etc", &outside))?;
    ensure!(said.contains("outside the container's root"), "{said}");
    let bundle = s.bundle("cwd-init", |spec| spec["process"]["cwd"] = json!("/proc/self/fd/3"))?;
    let create = ["create", "--preserve-fds", "1", "-b", text(&bundle)?, "cwd-init"];
    failure(s.oci_after("exec 3</etc", &create))?;
    ensure!(failure(s.oci(&["state", "cwd-init"]))?.contains("does not exist"), "it is still there");
    Ok(())
}

async fn exec_enters_every_cgroup_or_does_not_run(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("cgroups", |_| {})?;
    let pid_file = s.dir.join("cgroups.pid");
    ok(s.oci(&["exec", "--detach", "--pid-file", text(&pid_file)?, "cgroups", "sleep", "1000"]))?;
    let cgroups = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let init = s.state("cgroups")?["pid"].to_string();
    ensure_eq!(cgroups(&fs::read_to_string(&pid_file)?)?, cgroups(&init)?);
    for dir in cgroups_of("cgroups") {
        let mount = dir.ancestors().nth(2).context("a cgroup has no hierarchy")?;
        let hide = format!(
            "exec unshare --mount sh -c 'mount -t tmpfs hides {} && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
            mount.display()
        );
        let said = failure(s.oci_after(&hide, &["exec", "cgroups", "true"]))?;
        ensure!(said.contains(&format!("entering {}", dir.display())), "{}: {said}", dir.display());
    }
    Ok(())
}

/// As in CVE-2025-52881: what lies at `/proc` in the container is the container's.
async fn exec_writes_nothing_through_the_containers_proc(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("proc")?;
    let _c = s.running("proc", |spec| {
        spec["root"]["path"] = json!(rootfs);
        spec["mounts"].as_array_mut().map(|mounts| mounts.remove(0));
    })?;
    let trap = rootfs.join("proc/self/oom_score_adj");
    fs::create_dir_all(rootfs.join("proc/self"))?;
    fs::write(&trap, "untouched")?;
    let process = s.process_file("proc", &json!({"args": ["sleep", "1000"], "oomScoreAdj": 321}))?;
    let pid_file = s.dir.join("proc.pid");
    let exec = ["exec", "--detach", "--pid-file", text(&pid_file)?, "--process", text(&process)?, "proc"];
    ok(s.oci(&exec))?;
    ensure_eq!(fs::read_to_string(&trap)?, "untouched");
    let pid = fs::read_to_string(&pid_file)?;
    ensure_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj"))?.trim(), "321");
    Ok(())
}

async fn exec_refuses_what_it_cannot_do(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("refuses", |_| {})?;
    let cases = [
        ("selinuxLabel", json!("system_u:system_r:container_t:s0")),
        ("apparmorProfile", json!("there-is-no-such-profile")),
        ("scheduler", json!({"policy": "SCHED_BATCH"})),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0})),
        ("execCPUAffinity", json!({"initial": "0"})),
    ];
    for (key, value) in cases {
        let process = s.process_file("refuses", &json!({"args": ["true"], key: value}))?;
        let said = failure(s.oci(&["exec", "--process", text(&process)?, "refuses"]))?;
        ensure!(said.contains(key), "{key}: {said}");
    }
    Ok(())
}

async fn a_home_is_looked_up_without_waiting(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("home")?;
    let passwd = rootfs.join("etc/passwd");
    let users = rootfs.join("etc/users");
    fs::write(&users, "root:x:0:0::/home/root:/bin/sh\nfive:x:5:5::/srv:/bin/sh\n")?;
    let cases = [
        ("home-pipe", None, "HOME=/", "HOME=/"),
        ("home-endless", Some("/dev/zero"), "HOME=/", "HOME=/"),
        ("home-linked", Some("/etc/users"), "HOME=/home/root", "HOME=/srv"),
    ];
    for (name, link, of_init, of_five) in cases {
        match link {
            Some(target) => symlink(target, &passwd)?,
            None => drop(cordium_tests::process::sh("mkfifo", &[text(&passwd)?])?),
        }
        let c = s.running(name, |spec| spec["root"]["path"] = json!(rootfs))?;
        let has = |env: &str, home: &str| env.split(['\n', '\0']).any(|line| line == home);
        let environ = PathBuf::from(format!("/proc/{}/environ", s.state(name)?["pid"]));
        wait_for("its start", || Ok(fs::read_to_string(&environ)?.contains("PATH=/bin"))).await?;
        let env = fs::read_to_string(&environ)?;
        ensure!(has(&env, of_init), "{name}: {of_init} is not in {env:?}");
        let env = ok(s.oci(&["exec", "--user", "5:5", name, "env"]))?;
        ensure!(has(&env, of_five), "{name}: {of_five} is not in {env:?}");
        drop(c);
        fs::remove_file(&passwd)?;
    }
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

/// Chains of processes of which each makes the next one and ends: whoever lists them and then kills misses some.
async fn kill_all_reaches_what_is_made_meanwhile(s: Arc<Shared>) -> Result<()> {
    let rootfs = s.own_rootfs("relay")?;
    let relay = rootfs.join("bin/relay");
    fs::write(&relay, "#!/bin/sh\n/bin/sleep 0.01\n/bin/relay &\n")?;
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755))?;
    let make = |name: &str| -> Result<Running<'_>> {
        let c = s.running(name, |spec| {
            spec["root"]["path"] = json!(rootfs);
            spec["process"]["args"] = json!([
                "sh",
                "-c",
                "for n in 1 2 3 4 5 6 7 8; do for m in 1 2 3 4 5; do relay & done; done; sleep 1000"
            ]);
            spec["linux"]["resources"] = json!({"pids": {"limit": 3000}});
            // Without a pid namespace the end of init is not the end of the others.
            if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "pid");
            }
        })?;
        Ok(c)
    };
    let members = |name: &str| -> usize {
        let procs = cgroups_of(name).into_iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")));
        procs.map(|text| text.map_or(0, |text| text.lines().count())).max().unwrap_or(0)
    };
    for signal in ["KILL", "TERM"] {
        let name = format!("relay-{}", signal.to_lowercase());
        let _c = make(&name)?;
        wait_for("the relay's start", || Ok(members(&name) > 5)).await?;
        ok(s.oci(&["kill", "--all", &name, signal]))?;
        wait_for("the end of all", || Ok(members(&name) == 0)).await?;
    }
    let c = make("relay-delete")?;
    wait_for("the relay's start", || Ok(members("relay-delete") > 5)).await?;
    // Init alone: the container is stopped, and the others go on.
    ok(s.oci(&["kill", "relay-delete", "KILL"]))?;
    wait_for("the end of init", || Ok(s.state("relay-delete")?["status"] == "stopped")).await?;
    ok(s.oci(&["delete", "relay-delete"]))?;
    ensure_eq!(cgroups_of("relay-delete"), Vec::<PathBuf>::new());
    drop(c);
    Ok(())
}

/// Numbers are given again: what has init's later is not to be signalled or entered.
async fn another_process_with_inits_number_is_not_it(s: Arc<Shared>) -> Result<()> {
    let _c = s.running("number", |_| {})?;
    let mut stranger = Command::new("sleep").arg("1000").spawn()?;
    let outcome = (|| {
        let file = s.dir.join("state/number/state.json");
        let mut state: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        state["pid"] = json!(stranger.id());
        fs::write(&file, state.to_string())?;
        ensure_eq!(s.state("number")?["status"], "stopped");
        ensure!(failure(s.oci(&["kill", "number", "KILL"]))?.contains("stopped"), "it was signalled");
        ensure!(failure(s.oci(&["exec", "number", "true"]))?.contains("stopped"), "it was entered");
        ok(s.oci(&["delete", "number"]))?;
        ensure_eq!(stranger.try_wait()?, None);
        ensure_eq!(cgroups_of("number"), Vec::<PathBuf>::new());
        Ok(())
    })();
    stranger.kill()?;
    stranger.wait()?;
    outcome
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
