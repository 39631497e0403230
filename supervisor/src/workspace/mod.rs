//! The life of a workspace on its node.
//!
//! One task owns each workspace (`actor::Actor`); only it changes the state. Requests are queued to it, and
//! so is what its helpers find out: the start-up, the stop, the watch on the agent, the wait for the sandbox.
//!
//! ```text
//!           Start                                                      what goes wrong, at any point
//!  STOPPED ───────▶ INIT_REQUEST ─▶ INITIALIZING ─▶ PULLING_IMAGE ─▶ STARTING_RUNTIME ─▶ PREPARING ─▶ RUNNING
//!     ▲                   │              │                │                  │               │           │
//!     │                   └──────────────┴── Stop, Delete, a failure, time out, the agent is done ───────┘
//!     │                                                   ▼
//!     └──────────────── STOPPING ◀──────────────── STOPPING_REQUEST
//!
//!  helper:   startup ──────────────────────────────────────────────▶│ watch agent · wait sandbox · pump log
//!            halt   STOPPING ▶ agent.Shutdown ▶ last log ▶ kill ▶ clean up ▶│
//! ```
//!
//! | who | may |
//! |---|---|
//! | `startup` (or `adoption`, after a restart of the supervisor) | make storage, image, sandbox; report phases; it alone holds the sandbox until it hands it over at its end |
//! | the owner | change the state, commit it, decide to stop |
//! | `halt` | end the sandbox and undo what is left; begins only when `startup` has ended, so that nothing is made behind it |
//!
//! A stop during the start cancels `startup`, which drops a pull at once and lets a sandbox that is being made
//! come up first (for a bounded time), so that it can be ended in an orderly way. Every transition is queued
//! to the journal by the owner in its order; INIT_REQUEST and the answers to requests wait for the commit.
//!
//! A workspace is *fresh* until a run on its storage got through ON_CREATE: a start that failed before is
//! repeated as a first start on the same storage.

mod actor;
mod adoption;
mod follow;
mod halt;
mod pull;
mod startup;

use std::sync::Arc;

use cordium_proto::v1::{AgentEvent, Failure, Limit, StoppingReason, WorkspaceState};
use cordium_runtime::Reported;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    agent_link::AgentLink,
    context::Context,
    logs::Log,
    plan::{RunPlan, Secrets},
    request_error::RequestError,
    runtime::{Ended, SandboxHandle},
    store::Record,
};

/// How many requests may wait for a workspace's owner.
const REQUESTS: usize = 64;
/// How many findings of helpers may wait; they are held back beyond that.
const EVENTS: usize = 64;

/// Asks a workspace's owner for something.
pub enum Request {
    /// Begin a run. Answered with INIT_REQUEST's revision once it is durable.
    Start { plan: Box<RunPlan>, spec_json: String, reply: Reply<u64> },
    /// End the run. Answered with a revision once the request is durable.
    Stop { reason: StoppingReason, force: bool, reply: Reply<u64> },
    /// Change what the run may reach. Answered with whether it is in force, once it is durable.
    SetEgress { run_id: String, egress: Box<cordium_spec::Egress>, secrets: Secrets, reply: Reply<bool> },
    /// End the run, if there is one, and remove the storage and the record.
    Delete { reply: Reply<()> },
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// What others may know of a workspace without asking its owner.
#[derive(Clone)]
pub struct View {
    /// The state that its owner has reached.
    pub state: WorkspaceState,
    /// What the run was promised; unset while stopped.
    pub limit: Option<Limit>,
    /// Set while commands can be run in it.
    pub agent: Option<AgentLink>,
    /// Likewise.
    pub sandbox: Option<Arc<dyn SandboxHandle>>,
}

/// The way to a workspace's owner.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    view: watch::Receiver<View>,
    log: Arc<Log>,
}

impl Handle {
    /// Starts the owner of `record`. A run that the record says was under way is taken over or brought to its end.
    pub fn spawn(context: Arc<Context>, record: Record) -> Self {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let log = Log::new(&context.dirs.log(record.uid()));
        let (view, seen) =
            watch::channel(View { state: record.state(), limit: None, agent: None, sandbox: None });
        let actor = actor::Actor::new(context.clone(), record, inbox, view, log.clone());
        context.tasks.spawn(actor.run());
        Self { requests, view: seen, log }
    }

    /// Queues a request. It is handed back when the owner has gone, as it does after a deletion.
    pub async fn send(&self, request: Request) -> Result<(), Request> {
        self.requests.send(request).await.map_err(|mpsc::error::SendError(request)| request)
    }

    /// The newest view.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// The owner has gone.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// The workspace's log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }
}

/// Why a start-up ended early.
enum Halted {
    /// The owner said so.
    Cancelled,
    /// Something went wrong.
    Failed(Failure),
}

/// What a start-up made, however it ended.
struct StartupEnd {
    result: Result<AgentLink, Halted>,
    sandbox: Option<Arc<dyn SandboxHandle>>,
    /// Keeps the image's layers while the run lasts.
    lease: Option<Arc<crate::images::RunImage>>,
}

/// What a stop did.
struct HaltEnd {
    failure: Option<Failure>,
    warnings: Vec<String>,
    storage_removed: bool,
}

/// What helpers report to the owner.
enum Event {
    /// The next phase begins.
    Phase {
        state: WorkspaceState,
        detail: String,
        warnings: Vec<String>,
    },
    /// More words on the phase.
    Detail(String),
    /// The image is there.
    Image {
        reference: String,
        digest: String,
    },
    StartupEnded(StartupEnd),
    Agent(AgentEvent),
    /// The agent cannot be reached any more, although nobody ended it.
    AgentLost(String),
    SandboxEnded(Ended),
    /// What the keeper has found out about memory and storage.
    Reported(Reported),
    HaltEnded(HaltEnd),
}

/// Where helpers report; dropped when the owner ends.
type Events = mpsc::Sender<(u64, Event)>;

/// A helper's way to the owner, for one run.
#[derive(Clone)]
struct Report {
    run: u64,
    events: Events,
}

impl Report {
    /// Fails when the owner has ended.
    async fn send(&self, event: Event) -> Result<(), Halted> {
        self.events.send((self.run, event)).await.map_err(|_| Halted::Cancelled)
    }

    /// Drops the event when the owner is busy.
    fn try_send(&self, event: Event) {
        // Only words on progress are sent this way.
        let _ = self.events.try_send((self.run, event));
    }
}
