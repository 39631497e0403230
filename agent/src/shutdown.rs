//! The end of the run: PRE_STOP tasks, SIGTERM to everything, SIGKILL to what is left.

use std::sync::Arc;
use std::time::Duration;

use cordium_proto::v1::ShutdownRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep, timeout};

use crate::state::{Stage, State};
use crate::tasks::{Budget, run_pre_stop};
use crate::{cgroups, system_init};

const PRE_STOP_BUDGET: Duration = Duration::from_secs(10 * 60);
const GRACE: Duration = Duration::from_secs(5);
const AFTER_KILL: Duration = Duration::from_secs(5);

/// Ends the run once; a second call waits for the first and gets the same answer.
pub async fn shut_down(state: &Arc<State>, request: ShutdownRequest) -> Vec<String> {
    state.shutdown.get_or_init(|| end(state, request)).await.clone()
}

async fn end(state: &Arc<State>, request: ShutdownRequest) -> Vec<String> {
    let stage = state.stage();
    state.enter(Stage::Stopping);
    let prepared = state.run().as_ref().map(|run| {
        run.job.abort();
        Arc::clone(&run.request)
    });
    // PRE_STOP undoes what a start has done: one that did not finish has nothing to undo.
    let warnings = match (stage, prepared) {
        (Stage::Ready(identity), Some(prepared)) if state.is_running() && !request.skip_tasks => {
            let budget = Budget::of(or_default(request.pre_stop_timeout_ms, PRE_STOP_BUDGET));
            run_pre_stop(state, &identity, &prepared.tasks, budget).await
        }
        _ => Vec::new(),
    };
    let grace = or_default(request.grace_ms, GRACE);
    system_init::shut_down(grace).await;
    end_everything(state, grace).await;
    cgroups::remove_made();
    state.logs.system("stopped");
    // Output that was written last is on its way through the pumps.
    sleep(Duration::from_millis(20)).await;
    state.logs.close();
    warnings
}

async fn end_everything(state: &State, grace: Duration) {
    let everything = Pid::from_raw(-1);
    if kill(everything, Signal::SIGTERM).is_err() {
        return;
    }
    // Interactive shells ignore SIGTERM; a stopped process handles nothing before it continues.
    let _ = kill(everything, Signal::SIGHUP);
    let _ = kill(everything, Signal::SIGCONT);
    if timeout(grace, state.reaper.childless()).await.is_ok() {
        return;
    }
    let deadline = Instant::now() + AFTER_KILL;
    while kill(everything, Signal::SIGKILL).is_ok() && Instant::now() < deadline {
        if timeout(Duration::from_millis(100), state.reaper.childless()).await.is_ok() {
            return;
        }
    }
}

fn or_default(millis: u64, default: Duration) -> Duration {
    if millis == 0 { default } else { Duration::from_millis(millis) }
}
