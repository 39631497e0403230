//! Pure cgroup v2: limits as the kernel has them, the OOM killer, killing and freezing a whole sandbox, and what root
//! inside may do with its own part of the tree.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, ensure, ensure_eq, json, paths, process, skip,
    workspace::STOP,
};

fn main() -> ExitCode {
    Suite::new("cgroup_v2")
        .case("limits_are_in_the_kernel", limits_are_in_the_kernel)
        .case("no_process_is_where_controllers_are_passed_on", no_process_is_where_controllers_are_passed_on)
        .case("memory_beyond_the_limit_is_an_oom_kill", memory_beyond_the_limit_is_an_oom_kill)
        .case("processes_beyond_the_limit_are_refused", processes_beyond_the_limit_are_refused)
        .case("cpu_time_is_bounded", cpu_time_is_bounded)
        .case("a_fork_bomb_is_killed_by_stop", a_fork_bomb_is_killed_by_stop)
        .case("a_frozen_sandbox_stands_still", a_frozen_sandbox_stands_still)
        .case("a_frozen_sandbox_can_be_stopped", a_frozen_sandbox_can_be_stopped)
        .case("root_limits_its_own_cgroups", root_limits_its_own_cgroups)
        .case("root_cannot_lift_its_own_limits", root_cannot_lift_its_own_limits)
        .case("cgroups_of_the_tenant_are_removed", cgroups_of_the_tenant_are_removed)
        .case("a_supervisor_right_in_its_delegated_cgroup", a_supervisor_right_in_its_delegated_cgroup)
        .run(|| Fixture::start("cgroup_v2"))
}

const UNIFIED: &str = "/sys/fs/cgroup";

/// The cases are about the kernel's own files: a hybrid machine has its controllers elsewhere.
fn pure_v2() -> Result<()> {
    let controllers = fs::read_to_string(Path::new(UNIFIED).join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|there| there == name);
    if ["cpu", "memory", "pids"].into_iter().all(has) {
        return Ok(());
    }
    skip("this machine has no pure cgroup v2 with cpu, memory and pids; `cargo xtask test --vm` has")
}

/// The directory that holds a workspace's sandbox, seen from the host: where a process of it is.
async fn sandbox_cgroup(w: &Workspace) -> Result<PathBuf> {
    let script = format!(": {}; while :; do sleep 1; done", w.uid);
    let inside = w.ok(&format!("sh -c '{script}' >/dev/null 2>&1 & echo $!")).await?;
    let marked = format!("sh -c {script}");
    let found = process::until("the marked process", Duration::from_secs(20), || {
        let is_it = |pid: &i32| process::command_line(*pid).as_deref() == Some(&marked);
        Ok(process::processes().into_iter().find(is_it))
    })?;
    let own = fs::read_to_string(format!("/proc/{found}/cgroup")).context("reading a process's cgroup")?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no unified cgroup")?;
    let mut dir = Path::new(UNIFIED).join(path);
    while !dir.ends_with("box") {
        ensure!(dir.pop(), "a process of the sandbox is in {path}");
    }
    w.ok(&format!("kill {inside}")).await?;
    Ok(dir)
}

fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// A value of a file that has a name and a value on each line.
fn keyed(dir: &Path, file: &str, key: &str) -> Result<u64> {
    let text = read(dir, file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.with_context(|| format!("{file} has no {key}: {text}"))?.parse().context("a number")
}

async fn limits_are_in_the_kernel(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let limit = json!({"limit": {"cpu": {"millicores": 500}, "memory": {"megabytes": 256}, "pids": 200}});
    let w = f.run("limits", &f.small(limit)).await?;
    let dir = sandbox_cgroup(&w).await?;
    ensure_eq!(read(&dir, "memory.max")?, (256_u64 << 20).to_string());
    let high: u64 = read(&dir, "memory.high")?.parse().context("memory.high")?;
    ensure!(high < 256 << 20 && high > 200 << 20, "memory.high is {high}");
    ensure_eq!(read(&dir, "pids.max")?, "200");
    let quota: Vec<u64> = read(&dir, "cpu.max")?.split(' ').flat_map(str::parse).collect();
    ensure!(quota.len() == 2 && quota[0] * 2 == quota[1], "cpu.max is {quota:?}");
    // The same, seen from inside.
    ensure_eq!(w.root_ok("cat /sys/fs/cgroup/memory.max").await?, (256_u64 << 20).to_string());
    let warnings = w.status().await?.warnings;
    let about = |what: &str| warnings.iter().any(|warning| warning.contains(what));
    ensure!(!about("cpu") && !about("memory") && !about("pids"), "enforced, and warned of: {warnings:?}");
    w.delete().await
}

async fn no_process_is_where_controllers_are_passed_on(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("leaf", &f.small(json!({}))).await?;
    // The agent leaves the root of its tree beside the start.
    w.root_ok(
        "for i in $(seq 200); do [ \"$(cat /proc/1/cgroup)\" = 0::/init ] && exit 0; sleep 0.1; done; exit 1",
    )
    .await?;
    ensure_eq!(w.ok("cat /proc/self/cgroup").await?, "0::/init");
    ensure_eq!(w.root_ok("cat /sys/fs/cgroup/cgroup.procs").await?, "");
    let dir = sandbox_cgroup(&w).await?;
    ensure_eq!(read(&dir, "cgroup.procs")?, "");
    ensure_eq!(read(&dir, "cgroup.type")?, "domain");
    w.delete().await
}

/// Takes a gigabyte of memory in one step: who asks for it bit by bit is slowed down by `memory.high` first.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=1G count=1";

async fn memory_beyond_the_limit_is_an_oom_kill(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("oom", &f.small(json!({"limit": {"memory": {"megabytes": 64}}}))).await?;
    ensure!(w.sh(HOG).await?.code() != 0, "a gigabyte was used under a limit of 64 MiB");
    let dir = sandbox_cgroup(&w).await?;
    ensure!(keyed(&dir, "memory.events", "oom_kill")? > 0, "the kernel counts no OOM kill");
    let peak: u64 = read(&dir, "memory.peak").unwrap_or_else(|_| "0".into()).parse()?;
    ensure!(peak <= 64 << 20, "{peak} bytes were used");
    ensure_eq!(w.ok("echo alive").await?, "alive");
    w.delete().await
}

/// Refused forks. Kernels before 6.11 count them where the fork was tried, later ones where the limit is.
fn refused(dir: &Path) -> Result<u64> {
    Ok(keyed(dir, "pids.events", "max")? + keyed(&dir.join("init"), "pids.events", "max").unwrap_or(0))
}

async fn processes_beyond_the_limit_are_refused(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("pids", &f.small(json!({"limit": {"pids": 40}}))).await?;
    let dir = sandbox_cgroup(&w).await?;
    let bomb = w.sh("for i in $(seq 100); do sleep 30 & done; echo started").await?;
    ensure!(bomb.err().contains("fork") || bomb.code() != 0, "100 processes under a limit of 40: {bomb:?}");
    ensure!(refused(&dir)? > 0, "the kernel counts no refusal");
    let now: u64 = read(&dir, "pids.current")?.parse()?;
    ensure!(now <= 40, "{now} processes under a limit of 40");
    // The node's own account has it from the kernel's.
    let mut told = 0;
    for _ in 0..120 {
        told = w.status().await?.usage.map_or(0, |usage| usage.pids_refused);
        if told > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    ensure!(told > 0, "the status tells of no refusal");
    w.delete().await
}

async fn cpu_time_is_bounded(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("cpu", &f.small(json!({"limit": {"cpu": {"millicores": 200}}}))).await?;
    let dir = sandbox_cgroup(&w).await?;
    w.ok("(while :; do :; done) >/dev/null 2>&1 & (while :; do :; done) >/dev/null 2>&1 & echo started")
        .await?;
    // Counted, not timed: whole periods in which the two had used up what is theirs.
    process::until("throttling", Duration::from_secs(60), || {
        Ok((keyed(&dir, "cpu.stat", "nr_throttled")? >= 10).then_some(()))
    })?;
    let (periods, used) = (keyed(&dir, "cpu.stat", "nr_periods")?, keyed(&dir, "cpu.stat", "usage_usec")?);
    // 20 ms in each period of 100 ms; twice that and what the start took is far from the 200 ms of two free loops.
    let start = 2_000_000;
    ensure!(used <= periods * 40_000 + start, "{used} µs of CPU in {periods} periods");
    w.delete().await
}

async fn a_fork_bomb_is_killed_by_stop(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("bomb", &f.small(json!({"limit": {"pids": 120}}))).await?;
    let dir = sandbox_cgroup(&w).await?;
    // It lights itself again, for a shell gives up when it cannot fork, and it hears no signal but the last one.
    let bomb = "trap '' TERM HUP INT; bomb() { while :; do bomb & done; }; bomb";
    w.ok(&format!("({bomb}) >/dev/null 2>&1 & echo lit")).await?;
    process::until("the fork bomb", Duration::from_secs(60), || Ok((refused(&dir)? > 0).then_some(())))?;
    let mut watch = w.watch().await?;
    watch.next(STOP).await?;
    w.request_stop(true).await?;
    watch.stopped(STOP).await?;
    ensure!(!dir.exists(), "{} is still there", dir.display());
    w.delete().await
}

/// Freezes or thaws, and waits until the kernel says that it is so.
fn freeze(dir: &Path, frozen: bool) -> Result<()> {
    fs::write(dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }).context("writing cgroup.freeze")?;
    let wanted = u64::from(frozen);
    process::until("cgroup.events", Duration::from_secs(20), || {
        Ok((keyed(dir, "cgroup.events", "frozen")? == wanted).then_some(()))
    })
}

async fn a_frozen_sandbox_stands_still(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("ice", &f.small(json!({}))).await?;
    w.ok("(while :; do echo x >> /tmp/ticks; sleep 0.05; done) >/dev/null 2>&1 & echo started").await?;
    let dir = sandbox_cgroup(&w).await?;
    freeze(&dir, true)?;
    let before = keyed(&dir, "cpu.stat", "usage_usec")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure_eq!(keyed(&dir, "cpu.stat", "usage_usec")?, before);
    freeze(&dir, false)?;
    ensure_eq!(w.ok("echo thawed").await?, "thawed");
    w.delete().await
}

async fn a_frozen_sandbox_can_be_stopped(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("icy", &f.small(json!({}))).await?;
    let dir = sandbox_cgroup(&w).await?;
    freeze(&dir, true)?;
    let mut watch = w.watch().await?;
    watch.next(STOP).await?;
    w.request_stop(true).await?;
    watch.stopped(STOP).await?;
    w.delete().await
}

async fn root_limits_its_own_cgroups(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("nest", &f.small(json!({"limit": {"memory": {"megabytes": 512}, "pids": 200}}))).await?;
    let file = "/sys/fs/cgroup/cgroup.subtree_control";
    w.root_ok(&format!("for i in $(seq 200); do grep -q memory {file} && exit 0; sleep 0.1; done")).await?;
    let controllers = w.root_ok(&format!("cat {file}")).await?;
    for name in ["cpu", "memory", "pids"] {
        ensure!(
            controllers.split(' ').any(|there| there == name),
            "{name} is not handed on: {controllers:?}"
        );
    }
    // What a nested engine does for `--pids-limit` and `--memory`.
    let output = w
        .root(
            "set -e; cd /sys/fs/cgroup; mkdir -p engine/one; echo '+pids +memory' > engine/cgroup.subtree_control; \
             echo 10 > engine/one/pids.max; echo 33554432 > engine/one/memory.max; \
             echo $$ > engine/one/cgroup.procs; cat /proc/self/cgroup; \
             for i in $(seq 30); do sleep 30 & done; echo all",
        )
        .await?;
    ensure!(output.out().contains("0::/engine/one"), "{output:?}");
    ensure!(!output.out().contains("all") && output.err().contains("fork"), "{output:?}");
    let hog = format!(
        "echo $$ > /sys/fs/cgroup/engine/one/cgroup.procs && echo max > /sys/fs/cgroup/engine/one/pids.max && {HOG}"
    );
    ensure!(w.root(&hog).await?.code() != 0, "a gigabyte was used under a limit of 32 MiB");
    ensure!(
        w.root_ok("grep 'oom_kill ' /sys/fs/cgroup/engine/one/memory.events").await? != "oom_kill 0",
        "no OOM"
    );
    w.delete().await
}

async fn root_cannot_lift_its_own_limits(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let limit = json!({"limit": {"cpu": {"millicores": 500}, "memory": {"megabytes": 128}, "pids": 100}});
    let w = f.run("cage", &f.small(limit)).await?;
    for file in
        ["memory.max", "memory.high", "pids.max", "cpu.max", "cgroup.freeze", "cgroup.kill", "cgroup.type"]
    {
        let output = w.root(&format!("echo max > /sys/fs/cgroup/{file}")).await?;
        ensure!(output.code() != 0, "root inside wrote {file}");
    }
    let dir = sandbox_cgroup(&w).await?;
    ensure_eq!(read(&dir, "memory.max")?, (128_u64 << 20).to_string());
    // The user of the workspace owns nothing of the tree.
    ensure!(w.sh("mkdir /sys/fs/cgroup/mine").await?.code() != 0, "the user made a cgroup");
    // Out of the sandbox's part there is no way up.
    ensure!(
        w.root("echo $$ > /sys/fs/cgroup/../cgroup.procs").await?.code() != 0,
        "a process left the sandbox"
    );
    w.delete().await
}

async fn cgroups_of_the_tenant_are_removed(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    let w = f.run("litter", &f.small(json!({}))).await?;
    w.root_ok("mkdir -p /sys/fs/cgroup/a/b/c/d && sh -c 'echo $$ > /sys/fs/cgroup/a/b/c/d/cgroup.procs; exec sleep 600' >/dev/null 2>&1 & echo started").await?;
    let dir = sandbox_cgroup(&w).await?;
    w.stop().await?;
    ensure!(!dir.exists(), "{} is still there", dir.display());
    w.delete().await
}

/// As a service manager starts a service with `Delegate=yes`: in the cgroup itself, which so cannot pass controllers on.
async fn a_supervisor_right_in_its_delegated_cgroup(f: Arc<Fixture>) -> Result<()> {
    pure_v2()?;
    if !nix::unistd::geteuid().is_root() {
        return skip("delegating a cgroup needs root");
    }
    let user = &f.node.user;
    let service = Path::new(UNIFIED).join("cordium-e2e-service");
    fs::create_dir(&service).context("making the service's cgroup")?;
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        user.own(&service.join(file))?;
    }
    let dir = f.dir.join("service");
    for dir in [dir.clone(), dir.join("state"), dir.join("run")] {
        user.make_dir(&dir)?;
    }
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "echo 0 > \"$1/cgroup.procs\" && shift && exec setpriv \"$@\"", "service"])
        .arg(&service);
    command.args(["--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string(), "--clear-groups"]);
    command.args(["--inh-caps=-all", "--"]).arg(paths::staged_programs()?.join("cordium-supervisor"));
    command.arg("serve").arg("--state-dir").arg(dir.join("state")).arg("--run-dir").arg(dir.join("run"));
    command.args(["--name", "service"]).env("HOME", &user.home).current_dir("/");
    let mut daemon = process::Daemon::spawn("service", &mut command, &dir.join("supervisor.log"))?;
    let socket = dir.join("run/cordium.sock");
    daemon
        .wait_ready(Duration::from_secs(60), || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let result = limited_in(&f, &socket, &service).await;
    daemon.stop(Duration::from_secs(20))?;
    process::end_by_marker(&dir);
    remove_cgroups(&service)?;
    result
}

async fn limited_in(f: &Fixture, socket: &Path, service: &Path) -> Result<()> {
    let clients = cordium_tests::client::Clients::unix(socket).await?;
    let spec = f.small(json!({"limit": {"memory": {"megabytes": 96}, "pids": 100}}));
    let w = Workspace::run(&clients, "svc", &spec).await?;
    let dir = sandbox_cgroup(&w).await?;
    ensure!(dir.starts_with(service), "the sandbox is in {}", dir.display());
    ensure_eq!(read(&dir, "memory.max")?, (96_u64 << 20).to_string());
    ensure_eq!(read(service, "cgroup.procs")?, "");
    let warnings = w.status().await?.warnings;
    ensure!(!warnings.iter().any(|warning| warning.contains("not enforced: ")), "{warnings:?}");
    w.delete().await
}

/// Removes a cgroup and all below it; the last processes may take a moment to go.
fn remove_cgroups(dir: &Path) -> Result<()> {
    let below = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    for entry in below.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroups(&entry.path())?;
    }
    process::until(&format!("end of {}", dir.display()), Duration::from_secs(10), || {
        Ok(fs::remove_dir(dir).is_ok().then_some(()))
    })
}
