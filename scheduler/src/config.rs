//! What an operator may set, with the values that hold when nothing is said.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::transport::Channel;

use crate::placement::Overcommit;

#[derive(Debug, Clone)]
pub struct Config {
    pub db: PathBuf,
    pub key: PathBuf,
    pub overcommit: Overcommit,
    /// Workspaces that may exist.
    pub max_workspaces: u64,
    /// Workspaces that may run at the same time.
    pub max_active: u64,
    /// Volumes that may exist in one space.
    pub max_volumes_per_space: u64,
    /// How often a node is asked for its state, besides listening to its stream.
    pub poll: Duration,
    /// Waiting between attempts to reach a node: first, and at most.
    pub backoff: (Duration, Duration),
}

impl Config {
    /// For a scheduler of several nodes: memory is not promised twice.
    pub fn new(db: &Path, key: &Path) -> Self {
        Self {
            db: db.to_owned(),
            key: key.to_owned(),
            overcommit: Overcommit { cpu: 8.0, memory: 1.0 },
            max_workspaces: 1000,
            max_active: 128,
            max_volumes_per_space: 100,
            poll: Duration::from_secs(5),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
        }
    }

    /// For one machine, where limits are ceilings rather than shares: there is no other node to choose.
    pub fn single(db: &Path, key: &Path) -> Self {
        Self { overcommit: Overcommit { cpu: f64::INFINITY, memory: 4.0 }, ..Self::new(db, key) }
    }
}

/// A node to drive. The channel should connect lazily: the node need not be there yet.
#[derive(Debug, Clone)]
pub struct NodeTarget {
    pub name: String,
    pub channel: Channel,
}
