//! The egress broker: everything that leaves a workspace passes through this process, or does not leave.
//!
//! A workspace's network namespace has one neighbour, the gateway namespace, where nft redirects every TCP connection
//! and every DNS query to two local ports, and hands every other datagram to a third. The keeper makes these sockets *inside* the
//! gateway and hands them to the broker, which runs outside, decides on each flow, dials out and copies with `splice(2)`.
//!
//! One broker serves all workspaces of a node. It is its own process so that it outlives a supervisor restart and so
//! that it can confine itself harder than the supervisor could.

mod client;
mod confine;
mod denials;
mod dns;
mod end;
mod fdpass;
mod first;
mod flow;
mod inspect;
mod limiter;
mod main_loop;
mod nft;
mod node;
#[doc(hidden)]
pub mod parsers;
mod peek;
mod pins;
mod policy;
mod policy_file;
mod records;
mod said;
mod seccomp;
mod server;
mod service;
mod splice;
mod sys;
pub mod system_calls;
mod udp;
mod wire;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use client::{RegisterError, Registered, Sockets, register};
pub use denials::{
    Denial, Denials, Owner, Protocol, Question, Questions, Records, WatchError, questions,
    watch as watch_denials, watch_records,
};
pub use inspect::{Authority, AuthorityError, Binding, Credentials, CredentialsError, Inject, Secret};
pub use main_loop::broker_main;
pub use nft::{nft_ruleset, nft_ruleset_without_udp};
pub use policy_file::{MAX_POLICY, PolicyFileError, Renewal, Terms, check_policy};
pub use records::{Happened, Record, Use};
pub use service::{Place, Protocol as ServiceProtocol, Service, Services};
pub use wire::{PROTOCOL_VERSION, Registration};

/// Address of the gateway end of the veth pair; the same in every workspace.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 253);
/// Address of the sandbox end of the veth pair; the same in every workspace.
pub const SANDBOX_V4: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 254);
/// Prefix length of the network between the two.
pub const PREFIX: u8 = 30;
/// The gateway end's IPv6 address. Of a unique local network (RFC 4193) that was drawn at random once: programs that sort
/// addresses as RFC 6724 has it then take IPv4 first where a name has both.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd48, 0x3aca, 0x68d9, 0, 0, 0, 0, 2);
/// The sandbox end's IPv6 address.
pub const SANDBOX_V6: Ipv6Addr = Ipv6Addr::new(0xfd48, 0x3aca, 0x68d9, 0, 0, 0, 0, 3);
/// Two addresses and no more (RFC 6164): every other one leads to the gateway, which answers at once.
pub const PREFIX_V6: u8 = 127;
/// Port in the gateway to which all TCP is redirected.
pub const TCP_PORT: u16 = 15001;
/// Port in the gateway to which DNS, over UDP and TCP, is redirected.
pub const DNS_PORT: u16 = 15053;
/// Port in the gateway whose socket receives all other datagrams.
pub const UDP_PORT: u16 = 15002;
/// The name that resolves to the gateway; a flow to it reaches the node's loopback on the ports that are given.
pub const HOST_NAME: &str = "host.cordium.internal";

/// What the broker process is told on its command line.
#[derive(Clone, Debug)]
pub struct BrokerOpts {
    /// Where keepers register.
    pub socket: std::path::PathBuf,
    /// Name servers to ask; when empty, those of `/etc/resolv.conf`, read anew when it changes.
    pub upstream: Vec<std::net::SocketAddr>,
}

impl BrokerOpts {
    pub fn new(socket: impl Into<std::path::PathBuf>) -> Self {
        Self { socket: socket.into(), upstream: Vec::new() }
    }
}
