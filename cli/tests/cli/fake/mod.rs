//! A hand-written supervisor on a unix socket: real gRPC, invented answers, and a record of what was asked.

mod control;
mod node;
mod session;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use cordium_proto::v1::{
    CreateRequest, Denial, ExecStart, Failure, ListeningPorts, LogEntry, PhaseEvent, Resource, UpdateRequest,
    WorkspaceEvent, WorkspaceState, control_server::ControlServer, node_server::NodeServer,
    session_server::SessionServer,
};
use prost_types::Timestamp;
use tokio::{net::UnixListener, sync::broadcast};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

/// One transition that a start goes through.
#[derive(Clone)]
pub struct Act {
    pub after: Duration,
    pub state: WorkspaceState,
    pub detail: &'static str,
    pub failure: Option<Failure>,
}

pub fn act(state: WorkspaceState) -> Act {
    Act { after: Duration::from_millis(10), state, detail: "", failure: None }
}

/// The phases of a start that goes well.
pub fn good() -> Vec<Act> {
    vec![
        act(WorkspaceState::InitRequest),
        act(WorkspaceState::Initializing),
        Act { detail: "pulling alpine:3.21", ..act(WorkspaceState::PullingImage) },
        act(WorkspaceState::StartingRuntime),
        act(WorkspaceState::Preparing),
        act(WorkspaceState::Running),
    ]
}

#[derive(Default)]
pub struct Seen {
    pub created: Vec<CreateRequest>,
    pub updated: Vec<UpdateRequest>,
    pub started: Vec<cordium_proto::v1::StartWorkspaceRequest>,
    pub stopped: Vec<String>,
    pub deleted: Vec<String>,
    pub execs: Vec<ExecStart>,
    pub signals: Vec<i32>,
    pub sizes: Vec<(u32, u32)>,
    pub watched_after: Vec<u64>,
}

pub struct State {
    pub resources: Mutex<Vec<Resource>>,
    pub script: Mutex<Vec<Act>>,
    pub logs: Mutex<Vec<LogEntry>>,
    /// Whoever follows gets none of it.
    pub logs_are_late: AtomicBool,
    pub denials: Mutex<Vec<Denial>>,
    pub ports: Mutex<Vec<ListeningPorts>>,
    pub seen: Mutex<Seen>,
    pub events: Mutex<Vec<WorkspaceEvent>>,
    pub live: broadcast::Sender<WorkspaceEvent>,
    /// Ends every watch stream once, after this many events.
    pub break_watch_after: Mutex<Option<usize>>,
    pub stop_hangs: AtomicBool,
}

#[derive(Clone)]
pub struct Fake(pub Arc<State>);

impl Fake {
    fn new() -> Self {
        Self(Arc::new(State {
            resources: Mutex::default(),
            script: Mutex::new(good()),
            logs: Mutex::default(),
            logs_are_late: AtomicBool::default(),
            denials: Mutex::default(),
            ports: Mutex::default(),
            seen: Mutex::default(),
            events: Mutex::default(),
            live: broadcast::channel(256).0,
            break_watch_after: Mutex::default(),
            stop_hangs: AtomicBool::new(false),
        }))
    }

    /// Serves on `cordium.sock` in the directory until the runtime ends.
    pub async fn serve_in(dir: &Path) -> Self {
        let fake = Self::new();
        let listener = UnixListener::bind(dir.join("cordium.sock")).unwrap();
        tokio::spawn(fake.clone().serve(listener));
        fake
    }

    pub async fn serve(self, listener: UnixListener) {
        Server::builder()
            .add_service(ControlServer::new(self.clone()))
            .add_service(SessionServer::new(self.clone()))
            .add_service(NodeServer::new(self))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .unwrap();
    }

    /// One that is not served yet.
    pub fn idle() -> Self {
        Self::new()
    }

    pub fn script(&self, acts: Vec<Act>) {
        *self.0.script.lock().unwrap() = acts;
    }

    pub fn seen<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        read(&self.0.seen.lock().unwrap())
    }

    /// Changes a workspace's state and tells the watchers.
    pub fn move_to(&self, uid: &str, act: &Act) {
        let mut resources = self.0.resources.lock().unwrap();
        let Some(resource) = resources.iter_mut().find(|r| r.metadata.as_ref().unwrap().uid == uid) else {
            return;
        };
        let status = resource.status.get_or_insert_default();
        let last = status.state;
        status.state = act.state.into();
        let run_id = status.run.clone().unwrap_or_default().id;
        let mut events = self.0.events.lock().unwrap();
        let revision = events.len() as u64 + 1;
        let event = WorkspaceEvent {
            revision,
            phase: Some(PhaseEvent {
                revision,
                node: "fake".into(),
                workspace_uid: uid.into(),
                workspace_name: resource.metadata.as_ref().unwrap().name.clone(),
                run_id,
                state: act.state.into(),
                last_state: last,
                at: Some(Timestamp { seconds: 1_000 + revision as i64, nanos: 250_000_000 }),
                detail: act.detail.into(),
                failure: act.failure.clone(),
                ..PhaseEvent::default()
            }),
            workspace: Some(resource.clone()),
            deleted: false,
        };
        events.push(event.clone());
        let _ = self.0.live.send(event);
    }
}

/// The program under test, away from the user's own files.
pub struct Cordium {
    pub dir: PathBuf,
}

pub struct Output {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Cordium {
    pub fn command(&self, args: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_cordium"));
        command
            .args(args)
            .env_remove("CORDIUM_STATE_DIR")
            .env("CORDIUM_SOCKET", self.dir.join("cordium.sock"))
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub async fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args).spawn().unwrap()).await
    }
}

pub async fn finish(child: tokio::process::Child) -> Output {
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .expect("cordium did not end within 30 s")
        .unwrap();
    Output {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

pub async fn stage() -> (tempfile::TempDir, Fake, Cordium) {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::serve_in(dir.path()).await;
    let cordium = Cordium { dir: dir.path().to_owned() };
    (dir, fake, cordium)
}

/// Waits until something is so.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}
