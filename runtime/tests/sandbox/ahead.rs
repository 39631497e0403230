//! Keepers made ahead.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use cordium_runtime::{Node, Pool, Sandbox, SandboxPlan};

const LIMIT: Duration = Duration::from_secs(20);
const KILL: Duration = Duration::from_secs(5);

/// Two of them become two sandboxes, each its own; then nothing is left, whoever cleans up.
pub async fn serve_once(state: &Path, plan: &SandboxPlan) -> Result<(), String> {
    let node = Node::probe().map_err(text)?;
    let pool = Pool::new(node.clone(), 2);
    until("two are ready", || pool.ready() == 2)?;
    let made = keepers();
    let mut served = Vec::new();
    for name in ["ahead-1", "ahead-2"] {
        let [volume, run_dir] = ["volume", "run"].map(|kind| state.join(format!("{name}-{kind}")));
        for dir in [&volume, &run_dir] {
            fs::create_dir(dir).map_err(text)?;
        }
        let ids = node.ranges().claim(name, None);
        let plan = SandboxPlan { id: name.to_owned(), volume, run_dir, ids, ..plan.clone() };
        let sandbox = pool.start(&plan).await.map_err(text)?;
        let keeper = keeper_of(&plan.run_dir)?;
        if !made.contains(&keeper) {
            return Err(format!("{name} was made by {keeper}, not by one of {made:?}"));
        }
        served.push((plan, keeper, sandbox));
    }
    if served[0].1 == served[1].1 {
        return Err("one keeper made both".to_owned());
    }
    pool.end().await;
    if pool.ready() != 0 {
        return Err("some are ready after the end".to_owned());
    }
    let sandboxes = served.iter().map(|(_, keeper, _)| *keeper).collect();
    until("only the sandboxes' keepers are left", || keepers() == sandboxes)?;
    // Who knows nothing but the run directory finds the cgroups, from the keeper or without it.
    let (first, second) = (&served[0], &served[1]);
    let adopted = Sandbox::adopt(&first.0.run_dir, &first.0.id, None).await.map_err(text)?;
    adopted.kill(KILL).await.map_err(text)?;
    let pid = rustix::process::Pid::from_raw(second.1).ok_or("no pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(text)?;
    second.2.wait().await;
    if let Some(cgroup) = pool.cgroup_of(&second.0.run_dir) {
        Sandbox::clean(cgroup).await.map_err(text)?;
    }
    until("no keeper is left", || keepers().is_empty())?;
    until("no cgroup is left", || cgroups(plan, std::process::id()).is_empty())
}

/// Kills the process that made them, which cannot clean up then.
pub async fn end_with_the_supervisor(plan: &SandboxPlan) -> Result<(), String> {
    let mut holder = Command::new(std::env::current_exe().map_err(text)?)
        .arg("hold")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut line = String::new();
    BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut line).map_err(text)?;
    let (made, made_cgroups) = (keepers(), cgroups(plan, holder.id()));
    holder.kill().map_err(text)?;
    holder.wait().map_err(text)?;
    if line.trim() != "ready" || made.len() != 2 || (plan.cgroup.is_some() && made_cgroups.is_empty()) {
        return Err(format!("{line:?}, {made:?}, {made_cgroups:?}"));
    }
    until("no keeper is left", || keepers().is_empty())?;
    until("no cgroup is left", || cgroups(plan, holder.id()).is_empty())
}

/// The process of [`end_with_the_supervisor`].
pub fn hold() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let pool = Pool::new(Node::probe().unwrap(), 2);
        until("two are ready", || pool.ready() == 2).unwrap();
        println!("ready");
        std::future::pending::<ExitCode>().await
    })
}

/// The processes of this very program that are keepers, without what they have forked.
fn keepers() -> BTreeSet<i32> {
    let own = fs::read_link("/proc/self/exe").unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let all: BTreeSet<i32> = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let program = words.next().unwrap_or_default();
            program == own.as_os_str().as_encoded_bytes() && words.next() == Some(b"keeper")
        })
        .collect();
    all.iter().copied().filter(|pid| parent(*pid).is_none_or(|parent| !all.contains(&parent))).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn keeper_of(run_dir: &Path) -> Result<i32, String> {
    let stream = UnixStream::connect(run_dir.join("keeper.sock")).map_err(text)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(text)?;
    Ok(peer.pid.as_raw_nonzero().get())
}

/// Those of the keepers that the process `maker` has made.
fn cgroups(plan: &SandboxPlan, maker: u32) -> Vec<String> {
    let prefix = format!("keeper-{maker}-");
    let hierarchies = plan.cgroup.iter().flat_map(|cgroup| &cgroup.hierarchies);
    hierarchies
        .flat_map(|hierarchy| fs::read_dir(&hierarchy.base).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter(|entry| entry.path().join("box").is_dir())
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// For what the kernel gives no event for.
fn until(what: &str, mut ready: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + LIMIT;
    while !ready() {
        if Instant::now() > end {
            return Err(format!("{what}: not after {LIMIT:?}; keepers {:?}", keepers()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
