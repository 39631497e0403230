//! A sandbox for one test: a root file system, namespaces, the agent, a client.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cordium_proto::v1::agent_client::AgentClient;
use cordium_proto::v1::agent_event::Event;
use cordium_proto::v1::session_client::SessionClient;
use cordium_proto::v1::{
    AgentEvent, ExecExit, ExecRequest, ExecResponse, ExecStart, Failure, LogEntry, LogsRequest,
    PrepareRequest, ShutdownRequest, Task, TaskType, TerminalSize, WatchAgentRequest, exec_request,
    exec_response,
};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

const BUSYBOX: &str = "/bin/busybox";
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits for its id maps; then a new exec makes it root of its user namespace.
const AWAIT_MAPS: &str =
    r#"until grep -q 65536 /proc/self/gid_map; do sleep 0.01; done; exec sh -c "$SCRIPT""#;

const SCRIPT: &str = r#"
set -e
exec 3<&0 0</dev/null
mount --make-rprivate /
if [ "$LOWER" = host ]; then
    T="$ROOT.tmpfs"; mkdir -p "$T"; mount -t tmpfs tmpfs "$T"; mkdir "$T/upper" "$T/work"
    mount -t overlay -o "lowerdir=/,upperdir=$T/upper,workdir=$T/work" overlay "$ROOT"
else
    mount --bind "$ROOT" "$ROOT"
fi
mkdir -p "$ROOT/proc" "$ROOT/dev" "$ROOT/run/cordium" "$ROOT/workspace"
mount --bind "$ROOT/workspace" "$ROOT/workspace"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=755 dev "$ROOT/dev"
for d in null zero full random urandom tty; do touch "$ROOT/dev/$d"; mount --bind "/dev/$d" "$ROOT/dev/$d"; done
mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$ROOT/dev/pts"
ln -s pts/ptmx "$ROOT/dev/ptmx"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/run/cordium"
mkdir "$ROOT/run/cordium/bin"
touch "$ROOT/run/cordium/bin/cordium-agent"
mount --bind -o ro "$AGENT" "$ROOT/run/cordium/bin/cordium-agent"
[ -z "$NET" ] || ip link set lo up
export CORDIUM_AGENT_FD=3
exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace chroot "$ROOT" /run/cordium/bin/cordium-agent
"#;

/// The file system that a sandbox stands on.
pub enum Image {
    /// Static busybox, with applets and root's account.
    Busybox,
    /// The same, as root of a user namespace: how it runs in earnest.
    UserNamespace,
    /// One static program, and nothing else.
    Scratch,
    /// What this machine has, its network too.
    Host,
}

pub struct Sandbox {
    unshare: Child,
    socket: PathBuf,
    pub root: PathBuf,
    log: PathBuf,
    pub channel: Channel,
    dir: Option<TempDir>,
}

pub struct Done {
    pub code: i32,
    pub signal: i32,
    pub error: String,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Done {
    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }
}

pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for namespaces");
    }
    root
}

pub fn request() -> PrepareRequest {
    PrepareRequest {
        run_id: "run-1".into(),
        workspace_name: "demo".into(),
        workspace_uid: "uid-1".into(),
        space: "default".into(),
        hostname: "demo.test".into(),
        fresh: true,
        ..PrepareRequest::default()
    }
}

pub fn task(name: &str, kind: TaskType, run: &str) -> Task {
    Task { name: name.into(), run: run.into(), r#type: kind.into(), ..Task::default() }
}

pub fn sh(script: &str) -> ExecStart {
    ExecStart { command: ["sh", "-c", script].map(str::to_owned).to_vec(), ..ExecStart::default() }
}

impl Sandbox {
    pub async fn new(image: Image) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        match image {
            Image::Busybox | Image::UserNamespace => busybox_root(&root),
            Image::Scratch => {
                std::fs::create_dir(&root).unwrap();
                std::fs::copy(BUSYBOX, root.join("busybox")).unwrap();
            }
            Image::Host => std::fs::create_dir(&root).unwrap(),
        }
        Self::boot(dir, root, image).await
    }

    /// The next run on the same storage.
    pub async fn again(mut self) -> Self {
        let (dir, root) = (self.dir.take().unwrap(), self.root.clone());
        drop(self);
        Self::boot(dir, root, Image::Busybox).await
    }

    async fn boot(dir: TempDir, root: PathBuf, image: Image) -> Self {
        let socket = dir.path().join("agent.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let log = dir.path().join("agent.log");
        let host = matches!(image, Image::Host);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]);
        if !host {
            command.arg("--net");
        }
        let mapped = matches!(image, Image::UserNamespace);
        if mapped {
            command.arg("--user");
        }
        let unshare = command
            .args(["sh", "-c", if mapped { AWAIT_MAPS } else { SCRIPT }])
            .env("SCRIPT", SCRIPT)
            .env("ROOT", &root)
            .env("AGENT", agent_binary())
            .env("LOWER", if host { "host" } else { "" })
            .env("NET", if host { "" } else { "1" })
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        if mapped {
            map_ids(unshare.id());
        }
        let path = socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent").connect_with_connector_lazy(connector);
        Self { unshare, socket, root, log, channel, dir: Some(dir) }
    }

    /// A busybox sandbox that reached RUNNING.
    pub async fn running() -> Self {
        let sandbox = Self::new(Image::Busybox).await;
        sandbox.prepare(request()).await;
        sandbox.wait_running().await;
        sandbox
    }

    pub fn agent(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone())
    }

    pub fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone()).max_decoding_message_size(cordium_proto::MAX_MESSAGE_BYTES)
    }

    pub async fn prepare(&self, request: PrepareRequest) {
        let done = tokio::time::timeout(LIMIT, async { self.agent().prepare(request).await }).await;
        if let Err(error) = done.expect("Prepare answers in time") {
            panic!("Prepare: {error}; log: {}", self.log());
        }
    }

    /// Events up to the first that `last` accepts.
    pub async fn events_until(&self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let work = async {
            let mut stream = self.agent().watch_agent(WatchAgentRequest {}).await.unwrap().into_inner();
            let mut all = Vec::new();
            while let Some(AgentEvent { event, .. }) = stream.message().await.unwrap() {
                let event = event.unwrap();
                let end = last(&event);
                all.push(event);
                if end {
                    return all;
                }
            }
            panic!("the stream of events ended with {all:?}");
        };
        match tokio::time::timeout(LIMIT, work).await {
            Ok(events) => events,
            Err(_) => panic!("no such event in time; log: {}", self.log()),
        }
    }

    pub async fn wait_running(&self) -> Vec<Event> {
        let events = self.events_until(|e| matches!(e, Event::Running(_) | Event::Failure(_))).await;
        assert!(matches!(events.last(), Some(Event::Running(_))), "{events:?}");
        events
    }

    pub async fn wait_failure(&self) -> Failure {
        let mut events = self.events_until(|e| matches!(e, Event::Running(_) | Event::Failure(_))).await;
        match events.pop() {
            Some(Event::Failure(failure)) => failure,
            other => panic!("expected a failure, got {other:?}"),
        }
    }

    pub async fn warnings(&self) -> Vec<String> {
        let events = self.wait_running().await;
        events
            .into_iter()
            .filter_map(|e| if let Event::Warning(text) = e { Some(text) } else { None })
            .collect()
    }

    pub async fn start_exec(&self, start: ExecStart) -> Exec {
        let (requests, receiver) = mpsc::channel(16);
        let first = ExecRequest { message: Some(exec_request::Message::Start(start)) };
        requests.send(first).await.unwrap();
        let responses = self.session().exec(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Exec { requests, responses }
    }

    pub async fn exec(&self, start: ExecStart) -> Done {
        self.start_exec(start).await.done().await
    }

    pub async fn sh(&self, script: &str) -> Done {
        self.exec(sh(script)).await
    }

    pub async fn root_sh(&self, script: &str) -> Done {
        self.exec(ExecStart { run_as_root: true, ..sh(script) }).await
    }

    pub async fn logs(&self, request: LogsRequest) -> Vec<LogEntry> {
        let mut stream = self.session().logs(request).await.unwrap().into_inner();
        let mut all = Vec::new();
        while let Some(entry) = stream.message().await.unwrap() {
            all.push(entry);
        }
        all
    }

    pub async fn log_text(&self) -> String {
        let entries = self.logs(LogsRequest::default()).await;
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.data).into_owned()).collect()
    }

    pub async fn shutdown(&self, request: ShutdownRequest) -> Vec<String> {
        let call = async { self.agent().shutdown(request).await };
        tokio::time::timeout(LIMIT, call).await.unwrap().unwrap().into_inner().warnings
    }

    /// The peak of the agent's resident memory, in KiB.
    pub fn agent_peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.agent_pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Waits for the end of PID 1.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.unshare.wait().unwrap()
    }

    /// The sandbox's root directory as this side may reach it.
    pub fn view(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.agent_pid()))
    }

    /// The agent's process id outside, once it is the agent.
    pub fn agent_pid(&self) -> u32 {
        for _ in 0..500 {
            let named = |pid: &i32| {
                let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                comm.is_ok_and(|comm| comm.starts_with("cordium-agent"))
            };
            if let Some(pid) = children(self.unshare.id()).first().filter(|pid| named(pid)) {
                return pid.unsigned_abs();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the agent did not start; log: {}", self.log());
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub async fn is_alive(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok() && self.sh_alive().await
    }

    async fn sh_alive(&self) -> bool {
        let call =
            async { self.session().list_terminals(cordium_proto::v1::ListTerminalsRequest::default()).await };
        tokio::time::timeout(Duration::from_secs(5), call).await.is_ok_and(|answer| answer.is_ok())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // `--kill-child` is forgotten at the exec that makes a program root of its user namespace.
        for child in children(self.unshare.id()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// A command in progress.
pub struct Exec {
    pub requests: mpsc::Sender<ExecRequest>,
    pub responses: Streaming<ExecResponse>,
}

impl Exec {
    pub async fn stdin(&self, data: &[u8]) {
        self.say(exec_request::Message::Stdin(data.to_vec().into())).await;
    }

    pub async fn signal(&self, number: i32) {
        self.say(exec_request::Message::Signal(number)).await;
    }

    pub async fn resize(&self, cols: u32, rows: u32) {
        self.say(exec_request::Message::Resize(TerminalSize { cols, rows })).await;
    }

    async fn say(&self, message: exec_request::Message) {
        self.requests.send(ExecRequest { message: Some(message) }).await.unwrap();
    }

    /// Output until it holds `text`.
    pub async fn read_until(&mut self, text: &str) -> String {
        let work = async {
            let mut seen = String::new();
            while !seen.contains(text) {
                match self.responses.message().await.unwrap().unwrap().message.unwrap() {
                    exec_response::Message::Stdout(data) | exec_response::Message::Stderr(data) => {
                        seen.push_str(&String::from_utf8_lossy(&data));
                    }
                    exec_response::Message::Exit(exit) => panic!("ended with {exit:?} after {seen:?}"),
                }
            }
            seen
        };
        tokio::time::timeout(LIMIT, work).await.unwrap()
    }

    pub async fn done(self) -> Done {
        let Self { requests, mut responses } = self;
        let mut done =
            Done { code: -99, signal: 0, error: String::new(), stdout: Vec::new(), stderr: Vec::new() };
        let work = async {
            while let Some(response) = responses.message().await.unwrap() {
                match response.message.unwrap() {
                    exec_response::Message::Stdout(data) => done.stdout.extend_from_slice(&data),
                    exec_response::Message::Stderr(data) => done.stderr.extend_from_slice(&data),
                    exec_response::Message::Exit(ExecExit { code, signal, error, .. }) => {
                        (done.code, done.signal, done.error) = (code, signal, error);
                    }
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.expect("the command ends in time");
        drop(requests);
        done
    }
}

/// What was built for this test, unless another build is to be measured.
fn agent_binary() -> String {
    std::env::var("CORDIUM_TEST_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_cordium-agent").into())
}

fn children(pid: u32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Maps every id onto itself for the child of `unshare`.
fn map_ids(unshare: u32) {
    for _ in 0..500 {
        if let Some(child) = children(unshare).first() {
            let write = |file: &str| std::fs::write(format!("/proc/{child}/{file}"), "0 0 65536\n");
            if write("uid_map").is_ok() {
                return write("gid_map").unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no child to map ids for");
}

fn busybox_root(root: &Path) {
    for directory in ["bin", "etc/skel", "tmp", "var/tmp", "root", "home", "usr/bin"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    for directory in ["tmp", "var/tmp"] {
        std::fs::set_permissions(root.join(directory), std::fs::Permissions::from_mode(0o1777)).unwrap();
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    let applets = Command::new(BUSYBOX).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(applets).unwrap().lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\ntty:x:5:\nextra:x:77:cordium\n").unwrap();
    std::fs::write(root.join("etc/skel/.profile"), "# skeleton\n").unwrap();
    std::fs::write(root.join("etc/sudoers"), "root ALL=(ALL) ALL\n").unwrap();
    symlink("/run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
}
