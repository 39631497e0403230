//! Keepers made ahead, so that a start does not wait for what is the same for every workspace.
//!
//! ```text
//!            make (one at a time, while no start is under way)          start
//!  nothing ───────────────────────────────────────────────▶ ready ───────────────▶ one workspace's
//!                                                             │
//!                                       the supervisor ends ──┴──▶ gone, cgroups too
//! ```
//! Each serves one workspace, once. A start that finds none makes its own. A keeper that waits ends by itself when its
//! supervisor is gone, however that ended.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    IdMap, Node, Ranges, Sandbox, SandboxPlan, StartError,
    cgroup::{self, CgroupPlan},
    ready_keeper::{ReadyKeeper, noted_cgroup},
};

/// More would only take memory: they are made faster than they are used.
pub const MAX_AHEAD: usize = 8;

/// What has just been started has the machine to itself for this long: its agent prepares, its first command runs.
const QUIET: Duration = Duration::from_millis(10);
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// How long the end may wait for a keeper that is just being made.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts sandboxes, some of them from keepers that it has made ahead.
pub struct Pool {
    shared: Arc<Shared>,
    maker: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    node: Node,
    wanted: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Reserved>,
    /// Starts that are under way: nothing is made beside them.
    starts: usize,
    made: u64,
    ended: bool,
}

impl Pool {
    /// Keeps `wanted` keepers ready, at most [`MAX_AHEAD`], and first removes what an earlier supervisor left of its own.
    /// Must be called within a tokio runtime.
    pub fn new(node: Node, wanted: usize) -> Self {
        cgroup::remove_abandoned(node.hierarchies());
        let wanted = wanted.min(MAX_AHEAD);
        let shared = Arc::new(Shared { node, wanted, state: Mutex::default(), changed: Notify::new() });
        let maker = (wanted > 0).then(|| tokio::spawn(shared.clone().keep_ready()));
        Self { shared, maker: Mutex::new(maker) }
    }

    /// As [`Sandbox::start`], but the sandbox gets cgroups with a name of their own, and nothing is left of a start that
    /// fails or is cancelled.
    pub async fn start(&self, plan: &SandboxPlan) -> Result<Sandbox, StartError> {
        let _busy = Busy::new(&self.shared);
        let keeper = match self.shared.take(&plan.ids) {
            Some(keeper) => keeper,
            None => ReadyKeeper::ahead(&self.shared.node, &plan.ids, self.shared.next_number()).await?,
        };
        keeper.start(plan.clone()).await
    }

    /// The cgroups of the run whose files are in `run_dir`, for when its keeper cannot be asked.
    pub fn cgroup_of(&self, run_dir: &std::path::Path) -> Option<CgroupPlan> {
        noted_cgroup(run_dir).and_then(|name| self.shared.node.cgroup_plan(&name))
    }

    /// How many are ready now.
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Ends those that wait, and makes no more. Sandboxes go on.
    pub async fn end(&self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
        let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut maker) = maker
            && timeout(END_TIMEOUT, &mut maker).await.is_err()
        {
            maker.abort();
        }
        let ready = std::mem::take(&mut self.shared.lock().ready);
        let mut ends = JoinSet::new();
        for reserved in ready {
            ends.spawn(reserved.into_keeper().end());
        }
        while ends.join_next().await.is_some() {}
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_number(&self) -> u64 {
        let mut state = self.lock();
        state.made += 1;
        state.made
    }

    /// One for these ids that is still alive; those that are not are dropped.
    fn take(&self, ids: &IdMap) -> Option<ReadyKeeper> {
        let mut state = self.lock();
        while let Some(at) = state.ready.iter().position(|reserved| reserved.keeper.ids() == ids) {
            let mut keeper = state.ready.remove(at)?.into_keeper();
            if keeper.is_alive() {
                return Some(keeper);
            }
            tracing::warn!("a keeper that was made ahead has ended");
        }
        None
    }

    fn wants_one(&self) -> bool {
        let state = self.lock();
        !state.ended && state.starts == 0 && state.ready.len() < self.wanted
    }

    async fn keep_ready(self: Arc<Self>) {
        let mut retry = FIRST_RETRY;
        loop {
            if self.lock().ended {
                return;
            }
            if !self.wants_one() {
                self.changed.notified().await;
                continue;
            }
            sleep(QUIET).await;
            if !self.wants_one() {
                continue;
            }
            let ids = Reservation::new(self.node.ranges());
            match ReadyKeeper::ahead(&self.node, &ids.ids, self.next_number()).await {
                Ok(keeper) => {
                    retry = FIRST_RETRY;
                    self.lock().ready.push_back(Reserved { keeper, _ids: ids });
                }
                Err(error) => {
                    tracing::warn!(%error, "making a keeper ahead; trying again in {retry:?}");
                    tokio::select! {
                        () = sleep(retry) => {}
                        () = self.until_ended() => {}
                    }
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }

    async fn until_ended(&self) {
        while !self.lock().ended {
            self.changed.notified().await;
        }
    }
}

/// A keeper that waits, and the range that is kept for it.
struct Reserved {
    keeper: ReadyKeeper,
    _ids: Reservation,
}

impl Reserved {
    fn into_keeper(self) -> ReadyKeeper {
        self.keeper
    }
}

/// A range that the next workspace may be given, because a keeper for it is there.
struct Reservation {
    ids: IdMap,
    ranges: Ranges,
}

impl Reservation {
    fn new(ranges: &Ranges) -> Self {
        Self { ids: ranges.reserve(), ranges: ranges.clone() }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ranges.unreserve(&self.ids);
    }
}

/// One start that is under way.
struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lock().starts += 1;
        Self(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.lock().starts -= 1;
        self.0.changed.notify_one();
    }
}
