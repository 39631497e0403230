//! How long each step of a run may take.

use std::time::Duration;

/// Bounds for the steps of a run.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From INIT_REQUEST to RUNNING on fresh storage.
    pub fresh_start: Duration,
    /// From INIT_REQUEST to RUNNING otherwise.
    pub start: Duration,
    /// Making the storage.
    pub storage: Duration,
    /// Making the sandbox.
    pub runtime: Duration,
    /// Until the agent answers.
    pub agent: Duration,
    /// How long the agent may be unreachable while its sandbox lives.
    pub agent_lost: Duration,
    /// PRE_STOP tasks altogether.
    pub pre_stop: Duration,
    /// Between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Ending the sandbox with force.
    pub kill: Duration,
    /// Fetching the last log entries.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Self {
            fresh_start: minutes(60),
            start: minutes(20),
            storage: minutes(2),
            runtime: minutes(1),
            agent: Duration::from_secs(30),
            agent_lost: Duration::from_secs(30),
            pre_stop: minutes(10),
            grace: Duration::from_secs(5),
            kill: Duration::from_secs(20),
            drain: Duration::from_secs(5),
        }
    }
}
