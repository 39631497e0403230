//! The way to a service's server: found and dialled by the broker, within what the node protects and no rule denies.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cordium_egress::Host;
use cordium_egress::service::Upstream;
use hickory_proto::rr::RecordType;
use tokio::time::timeout;

use super::table::Ready;
use super::{Connection, Refusal};
use crate::denials::Why;
use crate::end::End;
use crate::flow::{dial, keep_alive};
use crate::node;

/// Addresses of a name that are tried, in turn.
const MAX_ADDRESSES: usize = 4;
const DIAL: Duration = Duration::from_secs(8);

impl Connection<'_> {
    /// Reaches the server: the first of its addresses that answers.
    pub(super) async fn reach(&self, ready: &Ready) -> Result<(End, SocketAddr), Refusal> {
        let mut denied = None;
        let mut failed: Option<io::Error> = None;
        for address in self.addresses(ready).await.into_iter().take(MAX_ADDRESSES) {
            if let Err(why) = self.allows(ready, address) {
                denied = Some(why);
                continue;
            }
            match self.open(address).await {
                Ok(stream) => return Ok((stream, address)),
                Err(error) => failed = Some(error),
            }
        }
        Err(match (failed, denied) {
            (Some(error), _) => Refusal::unreached(ready, &format!("connecting to the server: {error}")),
            (None, Some(why)) => Refusal::denied(ready, why),
            (None, None) => Refusal::unreached(ready, "the server's name has no address"),
        })
    }

    pub(super) async fn open(&self, address: SocketAddr) -> io::Result<End> {
        let stream = timeout(DIAL, dial(address)).await??;
        keep_alive(&stream)?;
        Ok(End::new(stream))
    }

    /// Whether the policy has no objection to this address of the server; asked again when the policy changes.
    pub(super) fn allows(&self, ready: &Ready, address: SocketAddr) -> Result<(), Why> {
        match &ready.upstream {
            Upstream::Node => self.flows.rules.may_serve_node(ready.upstream_port),
            Upstream::Name(host) => self.flows.rules.may_serve(address, Some(host), node::owns),
            Upstream::Address(_) => self.flows.rules.may_serve(address, None, node::owns),
        }
    }

    async fn addresses(&self, ready: &Ready) -> Vec<SocketAddr> {
        let port = ready.upstream_port;
        match &ready.upstream {
            Upstream::Node => vec![(std::net::Ipv4Addr::LOCALHOST, port).into()],
            Upstream::Address(address) => vec![(*address, port).into()],
            Upstream::Name(host) => {
                self.resolve(host).await.into_iter().map(|address| (address, port).into()).collect()
            }
        }
    }

    /// Asked of the node's own resolvers, for each connection anew.
    async fn resolve(&self, host: &Host) -> Vec<IpAddr> {
        let ask = |kind| self.flows.upstreams.addresses(host, kind);
        let (v4, v6) = tokio::join!(ask(RecordType::A), ask(RecordType::AAAA));
        v4.into_iter().chain(v6.into_iter().filter(|address| node::reaches(*address))).collect()
    }
}
