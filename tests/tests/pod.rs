//! The supervisor in a container with the restrictions of an ordinary Kubernetes pod: it runs the demo workspace, nested
//! namespaces in it included, every process is confined as it should be, and nothing that the pod is given is too much.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use cordium_tests::{
    Context, Result, Suite, bail, containers, ensure, ensure_eq, fixture, images, json, paths,
    pod::{
        self, Pod,
        bundle::{Change, without_calls, without_mount},
        processes::{self, Process},
        servers::Servers,
    },
    process, skip,
    spec::with_image,
    suite::TearDown,
    v1::{WorkspaceEvent, WorkspaceState},
    watch::state_of,
    workspace::{STOP, Workspace},
};

fn main() -> ExitCode {
    Suite::new("pod")
        .case("demo_workspace_runs", demo_workspace_runs)
        .case("processes_have_what_they_need_and_no_more", processes_have_what_they_need_and_no_more)
        .case("root_nests_namespaces_with_their_own_proc", root_nests_namespaces_with_their_own_proc)
        .case("podman_runs_in_the_workspace", podman_runs_in_the_workspace)
        .case("doctor_runs_in_the_pod", doctor_runs_in_the_pod)
        .case("volumes_outlive_the_container", volumes_outlive_the_container)
        .case("nothing_on_the_list_can_be_left_out", nothing_on_the_list_can_be_left_out)
        // The container is ended and started again under the others otherwise.
        .one_at_a_time()
        .run(Machine::start)
}

/// One pod for most cases; `None` where none can be made.
struct Machine {
    made: Option<Made>,
}

struct Made {
    pod: Pod,
    servers: Servers,
    dir: PathBuf,
}

impl Machine {
    async fn start() -> Result<Self> {
        if pod::unsupported().is_some() {
            return Ok(Self { made: None });
        }
        let dir = fixture::fresh_dir("pod")?;
        let servers = Servers::start(&dir.join("servers"))?;
        let pod = Pod::start(&dir.join("pod"), &servers, Change::Nothing)?;
        Ok(Self { made: Some(Made { pod, servers, dir }) })
    }

    fn made(&self) -> Result<&Made> {
        match (&self.made, pod::unsupported()) {
            (Some(made), _) => Ok(made),
            (None, reason) => skip(reason.unwrap_or("there is no pod")),
        }
    }
}

impl TearDown for Machine {
    async fn tear_down(self: Arc<Self>) -> Result<()> {
        let Some(made) = &self.made else { return Ok(()) };
        made.pod.tear_down()?;
        fixture::remove_dir(&made.dir)
    }
}

impl Made {
    /// A workspace on the small image.
    async fn small(&self, name: &str) -> Result<Workspace> {
        small(&self.pod, &self.servers, name).await
    }

    fn tree(&self) -> Result<Vec<Process>> {
        Ok(processes::tree(self.pod.pid()?))
    }
}

async fn small(pod: &Pod, servers: &Servers, name: &str) -> Result<Workspace> {
    let spec = with_image(&servers.registry.reference(images::MUSL), json!({}));
    Workspace::run(&pod.clients().await?, name, &spec).await
}

/// The one whose command line ends like this.
fn only<'a>(tree: &'a [Process], end: &str) -> Result<&'a Process> {
    let mut found = tree.iter().filter(|process| process.line.ends_with(end));
    match (found.next(), found.next()) {
        (Some(process), None) => Ok(process),
        (None, _) => bail!("no process of the pod is \"{end}\": {:?}", lines(tree)),
        (Some(_), Some(_)) => bail!("several processes of the pod are \"{end}\": {:?}", lines(tree)),
    }
}

fn lines(tree: &[Process]) -> Vec<&str> {
    tree.iter().map(|process| process.line.as_str()).collect()
}

/// What `cargo xtask demo` runs, by the command line, from an empty image store to nothing left.
async fn demo_workspace_runs(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    let cli = made.pod.cli();
    let spec = made.dir.join("demo.yaml");
    fs::copy(paths::repository().join("images/examples/demo.yaml"), &spec).context("copying demo.yaml")?;
    let registry = format!("registry={}", made.servers.registry.host());
    let git = format!("git=http://host.cordium.internal:{}", made.servers.git_port());
    let file = spec.to_string_lossy().into_owned();
    let run = ["run", "--file", &file, "--var", &registry, "--var", &git, "--detach"];
    for round in ["first", "second"] {
        let told = cli.ok(&run).await.with_context(|| format!("{round} start"))?;
        ensure!(told.contains("limits are not enforced"), "no warning of limits: {told}");
        let answer = cli.ok(&["exec", "demo", "--no-stdin", "--", "sh", "-c", LOOK]).await?;
        ensure_eq!(answer, "cordium\nhello.sh\nlibrary\n0\n65536\n");
        cli.ok(&["stop", "demo", "--wait"]).await?;
    }
    cli.ok(&["delete", "ws", "demo"]).await?;
    let stored = made.pod.dir.join("state/workspaces");
    ensure_eq!(fs::read_dir(&stored).context("listing workspaces")?.count(), 0);
    // Orphans of keepers come to the first process, which takes them in.
    let taken_in = || {
        let tree = made.tree()?;
        let first = tree.first().map(|process| process.pid);
        let orphan = tree.iter().any(|process| process.is_zombie() && process.parent() == first);
        Ok((!orphan).then_some(()))
    };
    process::until("end of orphans", Duration::from_secs(5), taken_in)?;
    let left = made.tree()?;
    ensure!(only(&left, "cordium-agent").is_err(), "the sandbox is left: {:?}", lines(&left));
    Ok(())
}

const LOOK: &str = "id -un; ls /workspace/repo | grep hello; ls /workspace/additional-repos; sudo id -u; \
                    awk '{print $3}' /proc/self/uid_map";

const SETUID: u64 = 1 << 7;
const SETGID: u64 = 1 << 6;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_MODULE: u64 = 1 << 16;

async fn processes_have_what_they_need_and_no_more(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    let w = made.small("confined").await?;
    w.ok("sleep 31415 >/dev/null 2>&1 & true").await?;
    let keeper_is_confined = || {
        let tree = made.tree()?;
        let mut keepers = tree.iter().filter(|process| process.line.ends_with(" keeper"));
        let sandbox = tree.iter().find(|process| process.line.ends_with("cordium-agent"));
        let serving = keepers.find(|keeper| Some(keeper.pid) == sandbox.and_then(Process::parent));
        Ok(serving.filter(|keeper| keeper.field("NoNewPrivs") == "1").cloned())
    };
    // It tells that the sandbox runs before it gives up what only the start needed.
    let keeper = process::until("a confined keeper", Duration::from_secs(10), keeper_is_confined)?;
    let tree = made.tree()?;
    let first = tree.first().context("the pod has no first process")?;
    let is_daemon =
        |process: &&Process| process.line.contains(" serve ") && process.parent() == Some(first.pid);
    let supervisor = tree.iter().find(is_daemon).with_context(|| format!("no daemon: {:?}", lines(&tree)))?;
    let broker =
        tree.iter().find(|process| process.line.contains(" broker ")).context("there is no broker")?;
    let agent = only(&tree, "cordium-agent")?;
    let task = only(&tree, "sleep 31415")?;

    for process in [first, supervisor, broker, &keeper] {
        ensure_eq!(process.uid()?, pod::UID);
        for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
            ensure!(process.capabilities(set)? == 0, "{}: {set} is {}", process.line, process.field(set));
        }
    }
    for process in [supervisor, broker] {
        ensure_eq!(process.capabilities("CapBnd")?, SETUID | SETGID);
    }
    ensure_eq!(keeper.capabilities("CapBnd")?, 0);
    // Its helper that maps ids gains a capability, so it cannot be on here.
    ensure_eq!(supervisor.field("NoNewPrivs"), "0");
    ensure_eq!(broker.field("NoNewPrivs"), "1");
    for process in &tree {
        ensure!(process.field("Seccomp") == "2", "{} has no filter", process.line);
    }
    let filters = |process: &Process| process.field("Seccomp_filters").parse::<u32>().unwrap_or(0);
    for process in [broker, &keeper, agent, task] {
        ensure!(filters(process) > filters(supervisor), "{} has no filter of its own", process.line);
    }
    let (first, count) = pod::SUBORDINATE;
    for process in [agent, task] {
        let uid = process.uid()?;
        ensure!(uid.checked_sub(first).is_some_and(|nth| nth < count), "{} runs as {uid}", process.line);
        // `sudo` must work, and gains nothing that is not the sandbox's.
        ensure_eq!(process.field("NoNewPrivs"), "0");
        ensure_eq!(process.capabilities("CapBnd")? & (SYS_PTRACE | SYS_MODULE), 0);
    }
    w.delete().await
}

/// Twice: what a nested container engine does, and one in a user namespace of its own.
async fn root_nests_namespaces_with_their_own_proc(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    let spec = with_image(&made.servers.registry.reference(images::BASE), json!({}));
    let w = Workspace::run(&made.pod.clients().await?, "nested", &spec).await?;
    let count = "ls /proc | grep -c '^[0-9]*$'";
    let nest = |flags: &str, then: &str| {
        format!("unshare {flags} --mount --pid --fork --mount-proc sh -ec '{then}'")
    };
    let script = nest("", &format!("mount -t tmpfs t /mnt; {count}"));
    let seen: u32 = w.root_ok(&script).await?.parse()?;
    ensure!(seen <= 4, "{seen} processes are in a new pid namespace");
    let twice = nest(
        "--user --map-root-user",
        &format!("{count}; unshare --user --mount --pid --fork --mount-proc {}", "ls /proc/self/ns/pid"),
    );
    w.ok(&twice).await?;
    let overlay = "mkdir -p /var/lib/containers/t && cd /var/lib/containers/t && mkdir -p l u w m && echo x > l/f && \
                   mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m && rm m/f && umount m && rm -rf /var/lib/containers/t";
    w.root_ok(overlay).await?;
    w.delete().await
}

/// As root and as the workspace user, on native overlay; without cgroups, which a pod cannot make.
async fn podman_runs_in_the_workspace(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    let spec = with_image(
        &made.servers.registry.reference(images::BASE),
        json!({"limit": {"memory": {"megabytes": 2048}}}),
    );
    let w = Workspace::run(&made.pod.clients().await?, "podman", &spec).await?;
    let script = format!(
        "({}) && podman run --cgroups=disabled --rm tiny id -u && podman info --format '{{{{.Store.GraphDriverName}}}}'",
        containers::podman_import(containers::OWN_FILES)
    );
    for answer in [w.root_ok(&script).await?, w.ok(&script).await?] {
        ensure!(answer.ends_with("\n0\noverlay"), "podman says {answer}");
    }
    w.delete().await
}

async fn doctor_runs_in_the_pod(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    // `crun exec` gives what the bundle says of the first process.
    let text = made.pod.exec(&["/usr/bin/cordium", "doctor", "--state-dir", "/var/lib/cordium"])?;
    ensure!(text.contains("workspaces can run") || text.contains("everything is there"), "{text}");
    ensure!(text.contains("landlock"), "{text}");
    Ok(())
}

/// The container dies with everything in it, as when the node's kubelet restarts it; the volumes stay.
async fn volumes_outlive_the_container(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    let w = made.small("outlives").await?;
    w.ok("echo kept > /workspace/f").await?;
    made.pod.end("KILL")?;
    made.pod.launch()?;
    let w = Workspace { clients: made.pod.clients().await?, ..w };
    // It may be so by the time that the watch begins.
    let is_stopped = |event: &WorkspaceEvent| state_of(event) == WorkspaceState::Stopped;
    w.watch().await?.until(STOP, is_stopped).await.context("after the container's end")?;
    w.start().await?;
    ensure_eq!(w.ok("cat /workspace/f").await?, "kept");
    w.delete().await
}

/// What is missing, what is changed, and what must be said of it: the table of `docs/pod.md`.
const NEEDED: &[(&str, Change, &str)] = &[
    (
        "SETUID and SETGID in the bounding set",
        Change::Config(|config| config["process"]["capabilities"]["bounding"] = json!([])),
        "idmap",
    ),
    (
        "allowPrivilegeEscalation",
        Change::Config(|config| config["process"]["noNewPrivileges"] = json!(true)),
        "idmap",
    ),
    (
        "file capabilities of newuidmap",
        Change::Files(|root| {
            let program = root.join("usr/bin/newuidmap");
            process::sh("setcap", &["-r", &program.to_string_lossy()]).map(drop)?;
            Ok(fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o4755))?)
        }),
        "newuidmap",
    ),
    ("subordinate ids", Change::Files(|root| Ok(fs::write(root.join("etc/subuid"), "")?)), "subuid"),
    (
        "user namespaces in the seccomp profile",
        Change::Config(|config| without_calls(config, &["unshare"])),
        "namespace",
    ),
    (
        "mounts in the seccomp profile",
        Change::Config(|config| without_calls(config, &["mount", "fsopen", "fsmount", "move_mount"])),
        "mount",
    ),
    ("the unmasked proc", Change::Config(|config| without_mount(config, "/host/proc")), "proc"),
    (
        "the unmasked proc writable",
        Change::Config(|config| {
            for mount in config["mounts"].as_array_mut().into_iter().flatten() {
                if mount["destination"] == "/host/proc" {
                    mount["options"] = json!(["rbind", "rprivate", "ro"]);
                }
            }
        }),
        "docs/pod.md",
    ),
    (
        "the volume for the state",
        Change::Config(|config| without_mount(config, "/var/lib/cordium")),
        "/var/lib/cordium belongs to user 0",
    ),
    (
        "the volume for sockets",
        Change::Config(|config| without_mount(config, "/run/cordium")),
        "/run/cordium belongs to user 0",
    ),
    ("nft", Change::Files(|root| Ok(fs::remove_file(root.join("usr/sbin/nft"))?)), "nft"),
    (
        "authorities' certificates",
        Change::Files(|root| Ok(fs::remove_file(root.join("etc/ssl/certs/ca-certificates.crt"))?)),
        "certificates",
    ),
];

async fn nothing_on_the_list_can_be_left_out(m: Arc<Machine>) -> Result<()> {
    let made = m.made()?;
    for (nth, (what, change, reason)) in NEEDED.iter().enumerate() {
        let dir = made.dir.join(format!("p{nth}"));
        let fails = without(&dir, &made.servers, *change).await;
        let told = fails.with_context(|| format!("without {what}"))?;
        ensure!(told.contains(reason), "without {what}, nothing is said of {reason:?}: {told}");
        println!("without {what}: {}", told.lines().next().unwrap_or_default());
        fixture::remove_dir(&dir)?;
    }
    Ok(())
}

/// Starts a pod that lacks something, and a workspace in it; returns what is said of the failure.
async fn without(dir: &Path, servers: &Servers, change: Change) -> Result<String> {
    let pod = Pod::make(dir, servers, change)?;
    let said = match pod.launch() {
        Err(_) => pod.log_text(),
        Ok(()) => match small(&pod, servers, "lacks").await {
            Err(error) => format!("{error:#}"),
            Ok(_) => bail!("a workspace runs all the same"),
        },
    };
    pod.tear_down()?;
    Ok(said)
}
