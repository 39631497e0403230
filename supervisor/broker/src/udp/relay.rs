//! One workspace's datagrams: receive, decide on the first of a flow, pass on, and end what a new policy ends.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use cordium_egress::Host;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::warn;

use super::back::Back;
use super::bucket::Bucket;
use super::flow::{Flow, Key, TURN, with_room};
use super::receive::{Received, receive};
use super::recent::Recent;
use super::table::Table;
use crate::denials::{Protocol, Ring, What, Why};
use crate::limiter::Limiter;
use crate::node;
use crate::pins::Pins;
use crate::policy::{Rules, why};
use crate::{SANDBOX_V4, SANDBOX_V6};

/// Flows of one workspace, where the limit of descriptors leaves room.
const MAX_FLOWS: usize = 1_024;
/// Flows of all workspaces: each takes one of the node's ports, of which the kernel gives 28,232, and whoever asks for a name needs
/// one, too.
pub(crate) const ALL_FLOWS: usize = 8_192;
/// Flows that are decided on in a second: beyond, a flood of destinations is dropped unread.
const DECISIONS: u32 = 2_000;
/// After a failed receive, when memory has run out.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Each flow holds one descriptor; those of one workspace take no more than an eighth of all.
pub(crate) fn flow_limit(descriptors: u64) -> usize {
    usize::try_from(descriptors / 8).unwrap_or(MAX_FLOWS).clamp(16, MAX_FLOWS)
}

/// What all datagrams of a workspace share.
pub(crate) struct Relay {
    pub workspace: String,
    pub rules: Arc<Rules>,
    pub pins: Arc<Pins>,
    pub ring: Arc<Ring>,
    pub back: Arc<Back>,
    /// Most flows open at once.
    pub limit: usize,
    /// Of all workspaces, those that may still be opened.
    pub left: Arc<Semaphore>,
    pub log: Limiter,
}

/// What changes while they pass.
struct State {
    table: Table,
    tasks: JoinSet<(Key, u64)>,
    decisions: Bucket,
    recent: Recent,
}

impl Relay {
    /// Passes datagrams on until it is dropped; the flows end with it.
    pub(crate) async fn serve(self, socket: UdpSocket) {
        let mut changes = self.rules.changes();
        let mut state = State {
            table: Table::new(self.limit),
            tasks: JoinSet::new(),
            decisions: Bucket::new(DECISIONS, DECISIONS, Instant::now()),
            recent: Recent::default(),
        };
        loop {
            tokio::select! {
                biased;
                Ok(()) = changes.changed() => self.decide_again(&mut state),
                Some(ended) = state.tasks.join_next() => {
                    // A flow that was ended here is not in the table any more.
                    if let Ok((key, serial)) = ended {
                        state.table.ended(&key, serial);
                    }
                }
                readable = socket.readable() => {
                    if let Err(error) = readable.and_then(|()| self.receive(&socket, &mut state)) {
                        if let Some(suppressed) = self.log.admit() {
                            warn!(workspace = self.workspace, %error, suppressed, "receiving a datagram");
                        }
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
    }

    fn receive(&self, socket: &UdpSocket, state: &mut State) -> io::Result<()> {
        with_room(|bytes| {
            for _ in 0..TURN {
                match socket.try_io(tokio::io::Interest::READABLE, || receive(socket, bytes)) {
                    Ok(Some(received)) => {
                        self.pass(state, received, bytes.get(..received.length).unwrap_or_default());
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    fn pass(&self, state: &mut State, received: Received, bytes: &[u8]) {
        let Received { source, destination, .. } = received;
        let sandbox = [IpAddr::V4(SANDBOX_V4), IpAddr::V6(SANDBOX_V6)].contains(&source.ip());
        if !sandbox || source.port() == 0 {
            return;
        }
        let key = Key { source, destination };
        if let Some(flow) = state.table.find(&key) {
            return flow.send(bytes, &self.back);
        }
        let now = Instant::now();
        if !state.decisions.take(now) {
            return;
        }
        let names = self.pins.names(destination.ip(), now);
        if let Err((names, why)) = self.open(state, key, names, bytes) {
            if state.recent.is_news(destination, now) {
                self.denied(key, &names, why);
            }
            self.back.refuse(source, destination, bytes.len());
        }
    }

    fn open(
        &self,
        state: &mut State,
        key: Key,
        names: Arc<[Host]>,
        bytes: &[u8],
    ) -> Result<(), (Arc<[Host]>, Why)> {
        let began = SystemTime::now().into();
        if let Err(why) = self.rules.decide_udp(key.destination, &names, began, node::owns) {
            return Err((names, why));
        }
        if !state.table.has_room(Instant::now()) {
            return Err((names, why("max-flows", "too many UDP flows are open", "close some")));
        }
        let Ok(share) = Arc::clone(&self.left).try_acquire_owned() else {
            return Err((
                names,
                why("max-flows", "too many UDP flows of all workspaces are open", "try again"),
            ));
        };
        let flow = match Flow::open(key, names, began, share) {
            Ok(flow) => Arc::new(flow),
            Err(error) => {
                // Nobody is to blame for a node without a way there, but whoever waits is told.
                tracing::debug!(workspace = self.workspace, destination = %key.destination, %error, "no UDP flow");
                self.back.refuse(key.source, key.destination, bytes.len());
                return Ok(());
            }
        };
        flow.send(bytes, &self.back);
        let tasks = &mut state.tasks;
        state.table.insert(flow, |flow, serial| {
            let back = Arc::clone(&self.back);
            tasks.spawn(async move {
                flow.receive(&back).await;
                (flow.key, serial)
            })
        });
        Ok(())
    }

    fn denied(&self, key: Key, names: &[Host], why: Why) {
        let what = What {
            names,
            destination: Some(key.destination),
            client: Some(key.source),
            protocol: Protocol::Udp,
            request: None,
        };
        // Kept when it is known who asked, or a moment later. Nobody waits: a socket of UDP stays as it is.
        drop(self.ring.look(&what, why));
    }

    /// Ends the flows that a new policy, or a new credential, does not allow.
    fn decide_again(&self, state: &mut State) {
        state.recent.forget();
        let decide = |flow: &Flow| {
            self.rules.decide_udp(flow.key.destination, &flow.names, flow.began, |_| false).err()
        };
        for (flow, why) in state.table.end(decide) {
            self.denied(flow.key, &flow.names, why);
            flow.refuse(&self.back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_workspace_takes_an_eighth_of_the_descriptors_at_most() {
        assert_eq!([0, 800, 1_048_576].map(flow_limit), [16, 100, MAX_FLOWS]);
    }
}
