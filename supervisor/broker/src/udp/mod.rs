//! UDP other than DNS: what a rule names passes, the rest is refused.
//!
//! ```text
//!  sandbox ──▶ gw0: nft tproxy ──▶ one transparent socket ──recvmsg──▶ flow? ──▶ its own connected socket ──▶ destination
//!          ◀── raw socket: the destination's address as source ◀────────────────── answers of that destination only
//! ```
//! A redirected datagram has lost where it was going; one that `tproxy` has taken still has it, beside its bytes. Both sockets on
//! the left are made by the keeper, which is root in the gateway; the broker needs no privilege to use them. The raw one can
//! reach nobody but the sandbox: the gateway has no other link.
//!
//! Nothing waits in the broker: a datagram that cannot go on at once is dropped, as by any router.

mod back;
mod bucket;
mod flow;
mod packet;
mod receive;
mod recent;
mod relay;
mod table;

pub(crate) use back::Back;
pub(crate) use relay::{ALL_FLOWS, Relay, flow_limit};
