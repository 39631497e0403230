//! The nodes that this scheduler drives: how to reach each, and how it was when last heard.
//!
//! ```text
//! follow ─ one task per node: connect, replay from the stored cursor, stay; else back off
//!   ├─ apply      a batch of phase events and the new cursor, one transaction
//!   ├─ reconcile  what the stream cannot say: starts that never arrived, runs the node lost
//!   ├─ left_behind  what the node is still to delete
//!   └─ poll       GetNode every few seconds: capacity, and whether the node answers at all
//! ```

pub mod apply;
pub mod egress;
pub mod follow;
pub mod left_behind;
pub mod reconcile;
pub mod records;

use std::time::Duration;

use cordium_proto::{
    MAX_MESSAGE_BYTES,
    v1::{GetNodeResponse, Limit, NodeStatus, node_client::NodeClient, session_client::SessionClient},
};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::clock;

/// How a node was when it was last heard.
#[derive(Debug, Clone, Default)]
pub struct NodeView {
    pub reachable: bool,
    pub error: String,
    /// Microseconds since the epoch; 0 means never.
    pub last_seen: i64,
    pub info: GetNodeResponse,
    /// What the node has promised to others than us.
    pub foreign: Limit,
}

pub struct NodeHandle {
    pub name: String,
    channel: Channel,
    view: watch::Sender<NodeView>,
    applied: watch::Sender<u64>,
}

impl NodeHandle {
    pub fn new(name: &str, channel: Channel, (cursor, last_seen): (u64, i64)) -> Self {
        let view = NodeView {
            error: "not reached yet".into(),
            last_seen,
            info: GetNodeResponse { name: name.to_owned(), ..Default::default() },
            ..Default::default()
        };
        Self {
            name: name.to_owned(),
            channel,
            view: watch::channel(view).0,
            applied: watch::channel(cursor).0,
        }
    }

    pub fn client(&self) -> NodeClient<Channel> {
        NodeClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub fn sessions(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub fn view(&self) -> NodeView {
        self.view.borrow().clone()
    }

    pub fn heard(&self, info: GetNodeResponse, foreign: Limit) {
        let view =
            NodeView { reachable: true, error: String::new(), last_seen: clock::now_micros(), info, foreign };
        self.view.send_replace(view);
    }

    /// True when it was reachable until now.
    pub fn lost(&self, error: &str) -> bool {
        let mut was = false;
        self.view.send_modify(|view| {
            was = view.reachable;
            view.reachable = false;
            error.clone_into(&mut view.error);
        });
        was
    }

    /// Tells how far this node's stream has been applied.
    pub fn set_applied(&self, revision: u64) {
        self.applied.send_replace(revision);
    }

    /// Waits until what the node said up to `revision` is in the store. False when that takes too long.
    pub async fn wait_applied(&self, revision: u64, at_most: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        matches!(tokio::time::timeout(at_most, applied.wait_for(|r| *r >= revision)).await, Ok(Ok(_)))
    }

    /// Waits until all that the node has said by now is in the store.
    pub async fn settle(&self, at_most: Duration) -> bool {
        let mut client = self.client();
        let asked =
            tokio::time::timeout(at_most, client.get_node(cordium_proto::v1::GetNodeRequest {})).await;
        match asked {
            Ok(Ok(answer)) => self.wait_applied(answer.into_inner().revision, at_most).await,
            _ => false,
        }
    }

    pub fn to_status(&self) -> NodeStatus {
        let view = self.view();
        NodeStatus {
            node: Some(view.info),
            reachable: view.reachable,
            error: view.error,
            last_seen_at: (view.last_seen != 0).then(|| clock::timestamp(view.last_seen)),
        }
    }
}

/// Node names may be host names.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if fits { Ok(()) } else { Err("allowed: 1 to 253 of letters, digits, '-', '.' and '_'".into()) }
}
