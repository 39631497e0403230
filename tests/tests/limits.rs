//! Limits: what one workspace takes too much of costs that workspace, in the documented way, and no other.

use std::{
    path::Path,
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use cordium_tests::{
    Context, Fixture, Result, Suite, Workspace, bail, ensure, ensure_eq, fixture, images, json,
    node::{Node, Options},
    process, skip,
    spec::{self, task},
    user::User,
    v1::{
        CreateRequest, Kind, StoppingReason, Usage, WorkspaceState as State, WorkspaceStatus, failure::Type,
    },
    workspace::Output,
};
use serde_json::Value;
use tokio::{task::JoinHandle, time::sleep};

/// For what the node finds out by itself: that storage is used up, that somebody was killed.
const NOTICE: Duration = Duration::from_secs(120);
/// Takes a gigabyte of memory, as one process called `dd`.
const HOG: &str = "dd if=/dev/zero of=/dev/null bs=1G count=1";
/// Takes more and more memory, as a process called `busybox-hog` that is not the command itself.
const SLOW_HOG: &str = r#"cp /bin/busybox /tmp/busybox-hog
head -c 1048576 /dev/zero | tr "\0" x > /tmp/line; echo >> /tmp/line
while cat /tmp/line; do sleep 0.02; done | /tmp/busybox-hog sort
exit $?"#;

fn main() -> ExitCode {
    Suite::new("limits")
        .case("a_memory_bomb_is_named", a_memory_bomb_is_named)
        .case("a_task_that_is_killed_for_memory_says_so", a_killed_task_says_so)
        .case("a_fork_bomb_stays_within_its_limit", a_fork_bomb)
        .case("pid_1_collects_a_flood_of_orphans", a_flood_of_orphans)
        .case("processes_that_nobody_collects", processes_that_nobody_collects)
        .case("a_disk_filler_is_ended_and_can_be_mended", a_disk_filler)
        .case("an_inode_filler_is_ended", an_inode_filler)
        .case("a_file_without_a_name_counts", a_file_without_a_name)
        .case("nesting_without_end_is_ended", nesting_without_end)
        .case("a_node_that_is_nearly_full_ends_what_fills_it", a_full_node)
        .case("limits_are_in_force_inside", in_force_inside)
        .case("use_and_pressure_are_in_the_status", use_is_in_the_status)
        .case("what_cannot_be_is_one_clear_error", one_clear_error)
        .one_at_a_time()
        .run(|| Fixture::start("limits"))
}

/// Runs commands in a workspace all along, and keeps count.
struct Neighbour {
    workspace: Workspace,
    answers: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    work: JoinHandle<Result<()>>,
}

impl Neighbour {
    async fn beside(f: &Fixture, name: &str) -> Result<Self> {
        let workspace = f.run(name, &f.small(json!({"limit": {"memory": {"megabytes": 64}}}))).await?;
        Ok(Self::watch(workspace))
    }

    fn watch(workspace: Workspace) -> Self {
        let (answers, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let work = {
            let (workspace, answers, ends) = (workspace.clone(), Arc::clone(&answers), Arc::clone(&ends));
            tokio::spawn(async move {
                while !ends.load(Ordering::Relaxed) {
                    ensure_eq!(workspace.ok("echo here").await?, "here");
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        Self { workspace, answers, ends, work }
    }

    /// Waits for another answer, of a command that was asked after this call.
    async fn answers_now(&self) -> Result<()> {
        let wanted = self.answers.load(Ordering::Relaxed) + 2;
        let end = Instant::now() + NOTICE;
        while self.answers.load(Ordering::Relaxed) < wanted {
            ensure!(!self.work.is_finished(), "the neighbour failed");
            ensure!(Instant::now() < end, "the neighbour does not answer");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Every one of its commands was answered, and its run has seen nothing.
    async fn end(self) -> Result<()> {
        self.answers_now().await?;
        self.ends.store(true, Ordering::Relaxed);
        self.work.await?.context("a command of the neighbour's")?;
        let status = self.workspace.status().await?;
        ensure_eq!(status.state(), State::Running);
        ensure_eq!(status.usage.context("the neighbour has no usage")?.oom_kills, 0);
        self.workspace.delete().await
    }
}

/// Asks for the status until it is as wanted. There is no event for what is used.
async fn status_with(
    w: &Workspace,
    what: &str,
    wanted: impl Fn(&WorkspaceStatus) -> bool,
) -> Result<WorkspaceStatus> {
    let end = Instant::now() + NOTICE;
    loop {
        let status = w.status().await?;
        if wanted(&status) {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "{}: {what}: {status:#?}", w.name);
        sleep(Duration::from_millis(50)).await;
    }
}

fn usage(status: &WorkspaceStatus) -> Usage {
    status.usage.clone().unwrap_or_default()
}

fn has_warning(status: &WorkspaceStatus, text: &str) -> bool {
    status.warnings.iter().any(|warning| warning.contains(text))
}

/// The sandbox is gone from the node: its processes' directory, and its storage after a deletion.
fn nothing_left(node: &Node, w: &Workspace) -> Result<()> {
    let storage = node.state().join("workspaces").join(&w.uid);
    ensure!(!storage.exists(), "{} is left", storage.display());
    let run = node.run().join("ws").join(&w.uid);
    ensure!(!run.exists(), "{} is left", run.display());
    process::until("end of the sandbox's processes", Duration::from_secs(10), || {
        Ok(process::mentioning(&run).is_empty().then_some(()))
    })
}

async fn a_memory_bomb_is_named(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-m").await?;
    let supervisor = f.node.pid();
    let w = f.run("membomb", &f.small(json!({"limit": {"memory": {"megabytes": 64}}}))).await?;
    ensure_eq!(usage(&w.status().await?).oom_kills, 0);
    let direct = w.exec(&["sh", "-c", &format!("exec {HOG}")]).await?;
    ensure_eq!((direct.code(), direct.exit.signal), (137, 9));
    by_the_killer(&direct, "dd")?;
    // A child of the command's: its shell tells of it by its own code.
    let nested = w.sh(SLOW_HOG).await?;
    ensure_eq!((nested.code(), nested.exit.signal), (137, 0));
    by_the_killer(&nested, "busybox-hog")?;
    neighbour.answers_now().await?;
    // Not everything that is killed falls to it.
    let killed = w.sh("kill -9 $$").await?;
    ensure_eq!((killed.code(), killed.exit.killed_by.as_str()), (137, ""));
    let status = status_with(&w, "both kills", |status| usage(status).oom_kills >= 2).await?;
    ensure!(usage(&status).last_oom_victim.starts_with("busybox-hog (pid "), "{:?}", usage(&status));
    let status =
        status_with(&w, "the warning", |status| has_warning(status, "the out-of-memory killer ended 2"))
            .await?;
    ensure!(!has_warning(&status, "not watched any more"), "{:?}", status.warnings);
    let told = status.warnings.iter().filter(|warning| warning.starts_with("the out-of-memory killer"));
    ensure_eq!(told.count(), 1);
    ensure!(w.log_text(None).await?.contains("the out-of-memory killer ended"), "the log does not tell");
    ensure_eq!(w.ok("echo lives").await?, "lives");
    let shown = f.cli().run(&["exec", "membomb", "--", "sh", "-c", &format!("exec {HOG}")]).await?;
    ensure_eq!(shown.code, 137);
    ensure!(shown.err.contains("killed by the out-of-memory killer: dd (pid "), "{}", shown.err);
    ensure_eq!(f.node.pid(), supervisor);
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

fn by_the_killer(output: &Output, name: &str) -> Result<()> {
    let expected = format!("killed by the out-of-memory killer: {name} (pid ");
    ensure!(output.exit.killed_by.starts_with(&expected), "{:?}", output.exit);
    Ok(())
}

async fn a_killed_task_says_so(f: Arc<Fixture>) -> Result<()> {
    let mut bad = task("hungry", "POST_START", &format!("exec {HOG}"));
    bad["onFailure"] = json!("ON_FAILURE_ABORT");
    let spec = f.small(json!({"limit": {"memory": {"megabytes": 64}}, "runtime": {"tasks": [bad]}}));
    let w = f.create("memtask", &spec).await?;
    let (_, workspace) = w.start_to_end().await?;
    let status = workspace.status.context("there is no status")?;
    let failure = status.failure.context("there is no failure")?;
    ensure!(matches!(&failure.r#type, Some(Type::Task(task)) if task.name == "hungry"), "{failure:?}");
    let first = failure.message.lines().next().unwrap_or_default();
    ensure!(first.contains("killed by the out-of-memory killer: dd (pid "), "{}", failure.message);
    w.delete().await?;
    nothing_left(&f.node, &w)
}

async fn a_fork_bomb(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-f").await?;
    let supervisor = f.node.pid();
    let limit = json!({"limit": {"pids": 64, "memory": {"megabytes": 256}, "cpu": {"millicores": 1000}}});
    let w = f.run("forkbomb", &f.base(limit)).await?;
    // It has no end, so nobody waits for it. A shell would give up.
    let bomb = begin(&w, "exec perl -e 'while (1) { fork }'");
    let refusing = |status: &WorkspaceStatus| usage(status).pids_refused > 100;
    let status = status_with(&w, "refused forks", refusing).await?;
    ensure!(usage(&status).pids <= 64, "{:?}", usage(&status));
    neighbour.answers_now().await?;
    ensure_eq!(w.status().await?.state(), State::Running);
    ensure_eq!(f.node.pid(), supervisor);
    w.stop().await?;
    bomb.abort();
    // Nothing of it is left for the next run.
    w.start().await?;
    ensure_eq!(w.ok("echo again").await?, "again");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

/// Orphans that end at once, each by a process that ends at once itself. What the limit refuses is tried again.
const ORPHANS: &str = r#"exec perl -e '
    sub begin { my $pid; select undef, undef, undef, 0.01 until defined($pid = fork); $pid }
    for (1 .. 20000) { my $pid = begin(); if (!$pid) { begin(); exit } waitpid $pid, 0; $done++ }
    print "$done\n"'"#;
/// Keeps children that have ended, says so, and collects them when it is told to.
const KEEPER: &str = r#"exec perl -e '
    for (1 .. 3000) { my $pid = fork; defined $pid or die "child $_: $!"; exit if !$pid; push @own, $pid }
    open my $kept, ">", "/tmp/kept";
    select undef, undef, undef, 0.05 until -e "/tmp/collect";
    print scalar(grep { waitpid($_, 0) == $_ } @own), "\n"'"#;
/// Has children that end at once until it is refused more, and leaves them to PID 1 by its own end.
const LEAVER: &str =
    r#"exec perl -e 'while (defined(my $pid = fork)) { exit if !$pid; $count++ } print "$count $!\n"'"#;

/// For what a workspace whose processes end by the thousand has to do.
fn busy() -> Value {
    json!({"limit": {"pids": 4096, "memory": {"megabytes": 512}}})
}

/// The largest part of memory that the agent ever had, in KiB.
async fn agent_peak(w: &Workspace) -> Result<u64> {
    Ok(w.ok("awk '/^VmHWM/ {print $2}' /proc/1/status").await?.parse()?)
}

/// PID 1 has collected all that was left to it.
async fn is_collected(w: &Workspace) -> Result<()> {
    let ended = "cat /proc/[0-9]*/stat 2>/dev/null | awk '$3 == \"Z\" && $4 == 1' | wc -l";
    w.ok(&format!("for i in $(seq 600); do [ $({ended}) = 0 ] && exit; sleep 0.1; done; exit 1")).await?;
    status_with(w, "few processes", |status| usage(status).pids < 100).await?;
    Ok(())
}

async fn a_flood_of_orphans(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-o").await?;
    let w = f.run("orphans", &f.base(busy())).await?;
    let before = agent_peak(&w).await?;
    let flood = begin(&w, ORPHANS);
    let mut answers = 0;
    while !flood.is_finished() {
        ensure_eq!(w.ok("echo here").await?, "here");
        answers += 1;
    }
    let output = flood.await??;
    ensure_eq!((output.code(), output.out().trim_end()), (0, "20000"));
    ensure!(answers > 1, "no command was answered while orphans came");
    is_collected(&w).await?;
    let grown = agent_peak(&w).await?.saturating_sub(before);
    ensure!(grown < 16 << 10, "PID 1 grew by {grown} KiB");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

async fn processes_that_nobody_collects(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-z").await?;
    let w = f.run("zombies", &f.base(busy())).await?;
    let before = agent_peak(&w).await?;
    let keeper = begin(&w, KEEPER);
    let wait = "for i in $(seq 600); do [ -e /tmp/kept ] && exit; sleep 0.1; done; exit 1";
    w.ok(wait).await?;
    let held = usage(&status_with(&w, "ended processes", |status| usage(status).pids >= 3000).await?);
    ensure!(held.pids <= 4096, "{held:?}");
    // What is left of the limit goes to somebody who leaves it to PID 1, all at once.
    let left = w.ok(LEAVER).await?;
    let (count, why) = left.split_once(' ').context("no count and reason")?;
    ensure_eq!(why, "Resource temporarily unavailable");
    ensure!((500..=1096).contains(&count.parse::<u32>()?), "{left}");
    neighbour.answers_now().await?;
    // PID 1 has taken those, and none that were another's.
    w.ok("touch /tmp/collect").await?;
    let collected = keeper.await??;
    ensure_eq!((collected.code(), collected.out().trim_end()), (0, "3000"));
    is_collected(&w).await?;
    let left = w.ok(LEAVER).await?;
    ensure!(
        left.split_once(' ').is_some_and(|(count, _)| count.parse().is_ok_and(|n: u32| n > 3000)),
        "{left}"
    );
    is_collected(&w).await?;
    let grown = agent_peak(&w).await?.saturating_sub(before);
    ensure!(grown < 16 << 10, "PID 1 grew by {grown} KiB");
    // A run ends with all of them.
    w.ok("rm /tmp/kept /tmp/collect").await?;
    let keeper = begin(&w, KEEPER);
    w.ok(wait).await?;
    w.stop().await?;
    keeper.abort();
    w.start().await?;
    ensure_eq!(w.ok("echo again").await?, "again");
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

/// Waits until the run has ended for its storage, and returns the status.
async fn ended_for_storage(w: &Workspace, words: &str) -> Result<WorkspaceStatus> {
    let status = status_with(w, "end of the run", |status| status.state() == State::Stopped).await?;
    let failure = status.failure.clone().context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::StorageExceeded(_))), "{failure:?}");
    ensure!(failure.message.contains(words), "{}", failure.message);
    ensure_eq!(status.last_stopping_reason(), StoppingReason::Error);
    Ok(status)
}

/// Begins a command whose end is of no interest.
fn begin(w: &Workspace, script: &str) -> JoinHandle<Result<Output>> {
    let (w, script) = (w.clone(), script.to_owned());
    tokio::spawn(async move { w.sh(&script).await })
}

async fn a_disk_filler(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-d").await?;
    let supervisor = f.node.pid();
    let w = f.run("diskfill", &f.small(json!({"limit": {"storage": {"megabytes": 32}}}))).await?;
    status_with(&w, "a first measurement", |status| usage(status).storage_measured_at.is_some()).await?;
    w.ok("dd if=/dev/zero of=/workspace/small bs=1M count=8").await?;
    // More than the limit, but not more than this machine can spare.
    let filler = begin(&w, "dd if=/dev/zero of=/workspace/big bs=1M count=64; sleep 1000");
    ended_for_storage(&w, "its limit is 32 MiB (limit.storage)").await?;
    filler.abort();
    neighbour.answers_now().await?;
    ensure_eq!(f.node.pid(), supervisor);
    // The files are there, and the workspace starts so that they can be removed.
    w.start().await?;
    let status = status_with(&w, "the warning", |status| has_warning(status, "over its limit")).await?;
    // How much there is depends on how far the filler came before its end.
    ensure!(usage(&status).storage_bytes > 32 << 20, "{:?}", usage(&status));
    w.ok("rm /workspace/big; sync").await?;
    status_with(&w, "less storage used", |status| usage(status).storage_bytes < 32 << 20).await?;
    ensure_eq!(w.status().await?.state(), State::Running);
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

async fn an_inode_filler(f: Arc<Fixture>) -> Result<()> {
    let neighbour = Neighbour::beside(&f, "calm-i").await?;
    let w = f.run("inodes", &f.small(json!({"limit": {"inodes": 1024}}))).await?;
    let script = "mkdir /workspace/many; cd /workspace/many; i=0; while [ $i -lt 3000 ]; do : > $i; i=$((i+1)); done; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "its limit is 1024 (limit.inodes)").await?;
    filler.abort();
    neighbour.answers_now().await?;
    w.delete().await?;
    nothing_left(&f.node, &w)?;
    neighbour.end().await
}

async fn a_file_without_a_name(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("unnamed", &f.small(json!({"limit": {"storage": {"megabytes": 32}}}))).await?;
    let script = "exec 9> /workspace/x; rm /workspace/x; dd if=/dev/zero bs=1M count=64 >&9; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "limit.storage").await?;
    filler.abort();
    w.delete().await?;
    nothing_left(&f.node, &w)
}

async fn nesting_without_end(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("deep", &f.small(json!({"limit": {"inodes": 4096}}))).await?;
    let script =
        "cd /workspace; i=0; while [ $i -lt 900 ]; do mkdir d; cd -P d; i=$((i+1)); done; sleep 1000";
    let digger = begin(&w, script);
    ended_for_storage(&w, "nested more than 800 deep").await?;
    digger.abort();
    w.delete().await?;
    nothing_left(&f.node, &w)
}

/// A small file system in a file, mounted until this goes.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u64) -> Result<Self> {
        let image = at.with_extension("img");
        std::fs::create_dir_all(at)?;
        std::fs::File::create(&image)?.set_len(mib << 20)?;
        process::run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        process::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(at))?;
        Ok(Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, so that nothing that is left keeps the mount: the leak check looks for it.
        if let Err(error) = process::run(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("{error:#}");
        }
    }
}

async fn a_full_node(f: Arc<Fixture>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return skip("mounting a small file system needs root");
    }
    let dir = fixture::fresh_dir("limits-disk")?;
    let small = match SmallDisk::mount(&dir.join("n"), 256) {
        Ok(small) => small,
        Err(error) => {
            fixture::remove_dir(&dir)?;
            return skip(format!("a small file system cannot be mounted here: {error:#}"));
        }
    };
    let result = full_node(&f, &small.0).await;
    drop(small);
    fixture::remove_dir(&dir)?;
    result
}

async fn full_node(f: &Fixture, dir: &Path) -> Result<()> {
    let user = User::for_tests()?;
    let programs = cordium_tests::paths::staged_programs()?;
    let options = Options { name: "small".to_owned(), ..Default::default() };
    // Below the mount: the node's own leak check would find that.
    let node = Node::start(&user, &programs, &dir.join("x"), options)?;
    let outcome = fill(f, &node).await;
    let torn_down = node.tear_down().await;
    outcome.and(torn_down)
}

async fn fill(f: &Fixture, node: &Node) -> Result<()> {
    let clients = node.clients().await?;
    let supervisor = node.pid();
    let small = |rest: Value| spec::with_image(&f.image(images::MUSL), rest);
    let calm = Workspace::run(&clients, "calm", &small(json!({}))).await?;
    let neighbour = Neighbour::watch(calm);
    let w = Workspace::run(&clients, "filler", &small(json!({}))).await?;
    let script =
        "while dd if=/dev/zero bs=1M count=1 >> /workspace/big 2>/dev/null; do sleep 0.2; done; sleep 1000";
    let filler = begin(&w, script);
    ended_for_storage(&w, "the node's file system is nearly full").await?;
    filler.abort();
    neighbour.answers_now().await?;
    ensure_eq!(node.pid(), supervisor);
    // Nothing new begins on what is left, and what is left is enough to say so.
    let (_, refused) = Workspace::create(&clients, "late", &small(json!({}))).await?.start_to_end().await?;
    let failure = refused.status.and_then(|status| status.failure).context("there is no failure")?;
    ensure!(matches!(failure.r#type, Some(Type::LoadStorage(_))), "{failure:?}");
    ensure!(failure.message.contains("nearly full"), "{}", failure.message);
    w.delete().await?;
    nothing_left(node, &w)?;
    // Blocks of removed files are free when the file system has written its journal.
    process::until("room on the small disk", NOTICE, || {
        let room = nix::sys::statvfs::statvfs(&node.dir).context("looking at the small disk")?;
        Ok((room.blocks_available() * room.fragment_size() > 32 << 20).then_some(()))
    })?;
    let again = Workspace::run(&clients, "again", &small(json!({}))).await?;
    again.delete().await?;
    neighbour.end().await
}

async fn in_force_inside(f: Arc<Fixture>) -> Result<()> {
    let limit = json!({
        "memory": {"megabytes": 100}, "swap": {"megabytes": 7}, "storage": {"megabytes": 100}, "inodes": 5000,
        "pids": 100, "openFiles": 300, "userNamespaces": 2, "inotify": {"instances": 3, "watches": 40},
        "io": {"weight": 50}, "cpu": {"millicores": 900},
    });
    let w = f.run("inforce", &f.base(json!({"limit": limit}))).await?;
    let status = w.status().await?;
    let told = status.limit.context("there is no limit")?;
    ensure_eq!((told.memory_mib, told.swap_mib, told.storage_mib, told.inodes), (100, 7, 100, 5000));
    ensure_eq!((told.pids, told.open_files, told.user_namespaces, told.io_weight), (100, 300, 2, 50));
    ensure_eq!((told.inotify_instances, told.inotify_watches, told.cpu_millicores), (3, 40, 900));
    ensure_eq!(w.ok("ulimit -n; ulimit -Hn").await?, "300\n300");
    ensure!(w.root("ulimit -n 301").await?.code() != 0, "root may raise its limit");
    // The sandbox's own is not among the two.
    w.root_ok("unshare -r unshare -r true").await?;
    ensure!(w.root("unshare -r unshare -r unshare -r true").await?.code() != 0, "a third user namespace");
    let cap = "import ctypes,sys
libc = ctypes.CDLL(None, use_errno=True)
n = 0
while libc.inotify_init() >= 0: n += 1
print(n, ctypes.get_errno())";
    let python = w.sh("command -v python3").await?;
    if python.code() == 0 {
        ensure_eq!(w.exec(&["python3", "-c", cap]).await?.out(), "3 24");
    }
    // A weight works only where the disk's scheduler knows weights; else that is said.
    let weighs = !has_warning(&status, "io weight limit is not enforced");
    let schedulers = process::run(Command::new("sh").args(["-c", "cat /sys/block/*/queue/scheduler"]))?;
    ensure!(!weighs || schedulers.contains("[bfq]") || unified_only(), "{:?}", status.warnings);
    w.delete().await
}

fn unified_only() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

async fn use_is_in_the_status(f: Arc<Fixture>) -> Result<()> {
    let w = f.run("used", &f.small(json!({}))).await?;
    w.ok("dd if=/dev/zero of=/workspace/f bs=1M count=4; sync").await?;
    let seen = |status: &WorkspaceStatus| usage(status).storage_bytes >= 4 << 20;
    let used = usage(&status_with(&w, "4 MiB of storage", seen).await?);
    ensure!(used.memory_bytes > 0 && used.memory_peak_bytes >= used.memory_bytes, "{used:?}");
    ensure!(used.pids > 0 && used.cpu_usec > 0 && used.inodes > 0 && used.at.is_some(), "{used:?}");
    // The kernel accounts for pressure by cgroup, or not at all.
    let accounts = process::run(Command::new("sh").args([
        "-c",
        "find /sys/fs/cgroup -maxdepth 3 -name cpu.pressure -exec cat {} + 2>/dev/null | grep -c avg10 || true",
    ]))?;
    ensure_eq!(used.cpu_pressure.is_some(), accounts.trim() != "0");
    ensure_eq!(used.memory_pressure.is_some(), used.io_pressure.is_some());

    let cli = f.cli();
    let shown: Value = serde_json::from_str(&cli.ok(&["get", "workspace", "used", "-o", "json"]).await?)?;
    let shown = &shown["status"]["usage"];
    ensure!(shown["memory"]["bytes"].as_u64() > Some(0), "{shown}");
    ensure!(shown["storage"]["bytes"].as_u64() >= Some(4 << 20), "{shown}");
    let status: Value = serde_json::from_str(&cli.ok(&["status", "-o", "json"]).await?)?;
    let found = status["workspaces"].as_array().and_then(|all| all.iter().find(|w| w["name"] == "used"));
    ensure!(found.is_some_and(|w| w["usage"]["pids"]["count"].as_u64() > Some(0)), "{status}");
    let table = cli.ok(&["status"]).await?;
    ensure!(table.contains("PRESSURE CPU/MEM/IO") && table.contains("used"), "{table}");
    let wide = cli.ok(&["get", "workspaces", "-o", "wide"]).await?;
    ensure!(wide.contains(" of 512.0 MiB"), "{wide}");
    w.stop().await?;
    ensure!(w.status().await?.usage.is_none(), "a stopped workspace uses nothing");
    w.delete().await
}

async fn one_clear_error(f: Arc<Fixture>) -> Result<()> {
    let refused = |name: &'static str, space: &'static str, limit: Value| {
        let request = CreateRequest {
            name: name.into(),
            space: space.into(),
            spec_json: f.small(json!({"limit": limit})).to_string(),
            ..Default::default()
        };
        let clients = f.clients.clone();
        async move {
            match Workspace::create_with(&clients, request).await {
                Ok(_) => bail!("{name} was created"),
                Err(error) => Ok(format!("{error:#}")),
            }
        }
    };
    const HUGE: u64 = 1 << 63;
    for (limit, expected) in [
        (json!({"pids": 0}), "spec.limit.pids: was 0; allowed: 16 to"),
        (json!({"pids": HUGE}), "spec.limit.pids: was 9223372036854775808"),
        (json!({"memory": {"megabytes": 0}}), "spec.limit.memory.megabytes: was 0"),
        (json!({"memory": {"megabytes": HUGE}}), "spec.limit.memory.megabytes: was 9223372036854775808"),
        (json!({"cpu": {"millicores": HUGE}}), "spec.limit.cpu.millicores: was 9223372036854775808"),
        (json!({"storage": {"megabytes": HUGE}}), "spec.limit.storage.megabytes: was"),
        (json!({"swap": {"megabytes": HUGE}}), "spec.limit.swap.megabytes: was"),
        (json!({"inodes": 0}), "spec.limit.inodes: was 0; allowed: 1024 to"),
        (json!({"io": {"weight": 0}}), "spec.limit.io.weight: was 0; allowed: 1 to 10000"),
        (json!({"openFiles": HUGE}), "spec.limit.openFiles: was"),
        (json!({"inotify": {"watches": 0}}), "spec.limit.inotify.watches: was 0"),
        (json!({"userNamespaces": 0}), "spec.limit.userNamespaces: was 0"),
        (json!({"gpu": 1}), "spec.limit.gpu"),
    ] {
        let error = refused("wrong", "", limit).await?;
        ensure!(error.contains(expected), "{error} has no {expected}");
    }
    let max = json!({"limit": {"maxLimit": {"memory": {"megabytes": 128}, "pids": 100}}});
    let mut space = CreateRequest { name: "tight".into(), spec_json: max.to_string(), ..Default::default() };
    space.set_kind(Kind::Space);
    f.clients.control.clone().create(space).await?;
    let error =
        refused("greedy", "tight", json!({"memory": {"megabytes": 256}, "pids": 101, "openFiles": 999}))
            .await?;
    let expected = "spec.limit: asks for more than the Space allows: memory.megabytes was 256, allowed: at most 128; \
                    pids was 101, allowed: at most 100";
    ensure!(error.contains(expected), "{error}");
    // What nobody asked for is made to fit.
    let request = CreateRequest {
        name: "modest".into(),
        space: "tight".into(),
        spec_json: f.small(json!({"limit": {"memory": {"megabytes": 128}}})).to_string(),
        ..Default::default()
    };
    let modest = Workspace::create_with(&f.clients, request).await?;
    ensure_eq!(modest.status().await?.limit.map(|limit| (limit.memory_mib, limit.pids)), Some((128, 100)));
    modest.delete().await
}
