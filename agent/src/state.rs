//! What every service of the agent shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cordium_proto::v1::PrepareRequest;
use tokio::sync::{OnceCell, watch};
use tokio::task::AbortHandle;

use crate::events::Events;
use crate::identity::Identity;
use crate::logs::Logs;
use crate::ports::{Owners, Ports};
use crate::reaper::Reaper;
use crate::task_sessions::TaskSessions;
use crate::terminals::Terminals;

/// How long a command that comes while the sandbox is being prepared waits for its user.
const IDENTITY_WAIT: Duration = Duration::from_secs(60);

/// Where the sandbox is in its life.
#[derive(Clone)]
pub enum Stage {
    /// `Prepare` has not come.
    New,
    /// The workspace user is being set up.
    Preparing,
    /// Commands may run.
    Ready(Arc<Identity>),
    /// No user could be set up.
    Failed,
    /// `Shutdown` has begun; nothing new may start.
    Stopping,
}

/// The run that `Prepare` began.
pub struct Run {
    pub request: Arc<PrepareRequest>,
    pub job: AbortHandle,
}

pub struct State {
    pub reaper: Reaper,
    pub logs: Arc<Logs>,
    pub events: Arc<Events>,
    pub terminals: Terminals,
    pub ports: Arc<Ports>,
    pub owners: Owners,
    pub task_sessions: Arc<TaskSessions>,
    /// The outcome of the one shutdown; whoever asks again gets the same.
    pub shutdown: OnceCell<Vec<String>>,
    stage: watch::Sender<Stage>,
    run: Mutex<Option<Run>>,
    running: watch::Sender<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error("the sandbox has not been prepared yet")]
    New,
    #[error("the sandbox is still being prepared")]
    TooSlow,
    #[error("the sandbox could not be prepared")]
    Failed,
    #[error("the workspace is stopping")]
    Stopping,
}

impl State {
    pub fn new() -> Self {
        let logs = Arc::new(Logs::new());
        Self {
            reaper: Reaper::new(),
            events: Arc::new(Events::new(Arc::clone(&logs))),
            logs,
            terminals: Terminals::default(),
            ports: Arc::default(),
            owners: Owners::default(),
            task_sessions: Arc::default(),
            shutdown: OnceCell::new(),
            stage: watch::Sender::new(Stage::New),
            run: Mutex::default(),
            running: watch::Sender::new(false),
        }
    }

    pub fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves on, but never out of `Stopping`.
    pub fn enter(&self, next: Stage) {
        self.stage.send_if_modified(|stage| {
            let stays = matches!(stage, Stage::Stopping);
            if !stays {
                *stage = next;
            }
            !stays
        });
    }

    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Clones and tasks are done.
    pub fn set_running(&self) {
        self.running.send_replace(true);
    }

    pub fn is_running(&self) -> bool {
        *self.running.borrow()
    }

    /// The identity to run a command under, waiting for it while the sandbox is being prepared.
    pub async fn identity(&self) -> Result<Arc<Identity>, NotReady> {
        let mut stage = self.stage.subscribe();
        let settled = stage.wait_for(|stage| !matches!(stage, Stage::Preparing));
        let stage = match tokio::time::timeout(IDENTITY_WAIT, settled).await {
            Ok(Ok(stage)) => stage.clone(),
            Ok(Err(_)) | Err(_) => return Err(NotReady::TooSlow),
        };
        match stage {
            Stage::Ready(identity) => Ok(identity),
            Stage::New => Err(NotReady::New),
            Stage::Preparing => Err(NotReady::TooSlow),
            Stage::Failed => Err(NotReady::Failed),
            Stage::Stopping => Err(NotReady::Stopping),
        }
    }
}
