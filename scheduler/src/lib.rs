//! The scheduler: desired state, placement, and the phases of all nodes as one stream.
//!
//! It is thin. What should be is in its `store`; what is comes from the nodes' `WatchPhases` streams, whose
//! positions are stored in the same transaction as what they caused, so that it resumes where it was. The same
//! code runs embedded in a supervisor, over a channel to its own Node service, and as a process of its own.
//!
//! A start travels `control::start` → `placement` → the node; phases come back through `nodes` →
//! `status` → the journal → `watch`.

mod activity;
mod applications;
mod audit;
mod clock;
mod config;
mod control;
mod core;
mod crypt;
mod error;
mod names;
mod nodes;
mod placement;
mod service;
mod session;
mod specs;
mod status;
mod store;
mod watch;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{audit_server::AuditServer, control_server::ControlServer, session_server::SessionServer},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Channel;

pub use crate::{
    config::{Config, NodeTarget},
    error::SchedulerError,
    placement::Overcommit,
    service::ControlService,
    specs::limit,
};
use crate::{core::Core, crypt::Cipher, nodes::NodeHandle, store::Store};

/// A running scheduler.
pub struct Embedded {
    /// Serves Control, Session and Audit. Cheap to clone.
    pub control: ControlService,
    core: Arc<Core>,
}

impl Embedded {
    /// The Control service, ready to be mounted.
    pub fn control_server(&self) -> ControlServer<ControlService> {
        ControlServer::new(self.control.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The Session service for clients: resolves workspaces' names and passes streams on to their nodes.
    pub fn session_server(&self) -> SessionServer<ControlService> {
        SessionServer::new(self.control.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The Audit service.
    pub fn audit_server(&self) -> AuditServer<ControlService> {
        AuditServer::new(self.control.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Asks every stream to end, without waiting: call it when the server that they are served by shuts down.
    pub fn begin_shutdown(&self) {
        self.core.shutdown.cancel();
    }

    /// Ends every stream and background task, and waits for requests that are half done.
    pub async fn shutdown(&self) {
        self.core.shutdown.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

/// Starts a scheduler for one node. `node` should connect lazily: its server may come up after this returns.
pub async fn embedded(
    db: &Path,
    key: &Path,
    node_name: &str,
    node: Channel,
) -> Result<Embedded, SchedulerError> {
    start(Config::single(db, key), vec![NodeTarget { name: node_name.to_owned(), channel: node }]).await
}

/// Starts a scheduler for any number of nodes.
pub async fn start(config: Config, targets: Vec<NodeTarget>) -> Result<Embedded, SchedulerError> {
    let store = Store::open(&config.db).await?;
    let cipher = Cipher::open(&config.key)?;
    control::secrets::check_key(&store, &cipher, &config)?;
    let mut nodes = BTreeMap::new();
    for NodeTarget { name, channel } in targets {
        let refused = |reason: String| SchedulerError::NodeName { name: name.clone(), reason };
        nodes::check_name(&name).map_err(refused)?;
        let seen =
            store.lookup(|conn| store::nodes::cursor(conn, &name)).map_err(|e| refused(e.to_string()))?;
        if nodes.insert(name.clone(), Arc::new(NodeHandle::new(&name, channel, seen))).is_some() {
            return Err(refused("given twice".into()));
        }
    }
    let audit = Arc::new(audit::Audit::open(&config.db, &store)?);
    let core = Arc::new(Core {
        store,
        audit,
        cipher,
        config,
        nodes,
        locks: core::Locks::default(),
        activity: activity::Activity::default(),
        shutdown: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    core.tasks.spawn(audit::keep(core.clone()));
    for node in core.nodes.values() {
        core.tasks.spawn(nodes::follow::run(core.clone(), node.clone()));
        core.tasks.spawn(nodes::records::run(core.clone(), node.clone()));
    }
    Ok(Embedded { control: ControlService::new(core.clone()), core })
}
