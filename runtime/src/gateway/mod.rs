//! The gateway: the keeper's own network namespace, through which everything that leaves the sandbox must pass.
//!
//! ```text
//!  sandbox netns (owned by I)              gateway netns (owned by O)
//!  eth0 100.127.255.254/30 ◀── veth ──▶ gw0 100.127.255.253/30
//!       fd48:3aca:68d9::3/127               fd48:3aca:68d9::2/127
//!  default via .253 and ::2                 nft: TCP → :15001, UDP → :15002, DNS → :15053, the rest refused
//!                                           sockets ──descriptors──▶ broker (outside)
//! ```
//! Nothing is forwarded: the gateway has no other link. Its default routes lead to itself, so that datagrams to any address are
//! delivered here. Neither end has an IPv6 address but these: no link-local one is
//! made, so nothing waits for it to be checked, and no router is asked for. Where the kernel has no IPv6, or is told not to
//! use it, there is IPv4 only.

mod netlink;
mod sockets;

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    process::{Child, Command, Stdio},
};

use cordium_broker::{
    GATEWAY_V4, GATEWAY_V6, PREFIX, PREFIX_V6, SANDBOX_V4, SANDBOX_V6, nft_ruleset, nft_ruleset_without_udp,
};
use netlink::{LOOPBACK, Netlink, is_off};
use netlink_packet_route::AddressFamily;
use nix::sched::{CloneFlags, setns};

pub use sockets::{Listeners, listen};

const GATEWAY_LINK: &str = "gw0";
const SANDBOX_LINK: &str = "eth0";
/// Both ends get the same known index, so that no look-up is needed.
const LINK_INDEX: u32 = 2;

#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("opening a netlink socket in the {place}: {source}")]
    Netlink { place: &'static str, source: io::Error },
    #[error("{step} in the {place}: {source}")]
    Configure { place: &'static str, step: &'static str, source: io::Error },
    #[error("entering the {place}: {source}")]
    Enter { place: &'static str, source: nix::Error },
    #[error("running nft: {0}; install nftables")]
    Nft(io::Error),
    #[error("nft refused the gateway's rules: {0}")]
    Rules(String),
    #[error("listening on port {port} in the gateway: {source}")]
    Listen { port: u16, source: io::Error },
    #[error("making the raw sockets of the gateway: {0}")]
    Raw(io::Error),
}

/// A gateway whose rules are being loaded by `nft`.
pub struct Pending {
    /// Taken by [`Pending::finish`].
    nft: Option<Child>,
}

const GATEWAY: &str = "gateway namespace";
const SANDBOX: &str = "sandbox namespace";

/// Begins to load the rules into the calling thread's network namespace, which becomes the gateway.
pub fn load_rules() -> Result<Pending, GatewayError> {
    Ok(Pending { nft: Some(spawn_nft(&nft_ruleset(GATEWAY_LINK))?) })
}

/// Links the calling thread's network namespace with `sandbox`.
pub fn link(sandbox: BorrowedFd<'_>) -> Result<(), GatewayError> {
    let mut here = Netlink::open().map_err(|source| GatewayError::Netlink { place: GATEWAY, source })?;
    let mut there = in_namespace(sandbox, Netlink::open)?
        .map_err(|source| GatewayError::Netlink { place: SANDBOX, source })?;
    let at = |place, step| move |source| GatewayError::Configure { place, step, source };
    here.add_veth(GATEWAY_LINK, LINK_INDEX, SANDBOX_LINK, LINK_INDEX, sandbox)
        .map_err(at(GATEWAY, "making the veth pair"))?;
    let mut has_ipv6 = true;
    for (netlink, place, address) in [(&mut here, GATEWAY, GATEWAY_V4), (&mut there, SANDBOX, SANDBOX_V4)] {
        netlink.set_up(LOOPBACK).map_err(at(place, "bringing loopback up"))?;
        has_ipv6 &= unless_off(netlink.no_generated_addresses(LINK_INDEX))
            .map_err(at(place, "keeping IPv6 addresses from being made"))?;
        netlink.add_address(LINK_INDEX, address.into(), PREFIX).map_err(at(place, "setting the address"))?;
        netlink.set_up(LINK_INDEX).map_err(at(place, "bringing the link up"))?;
    }
    there.add_default_route(GATEWAY_V4.into()).map_err(at(SANDBOX, "setting the default route"))?;
    here.take_everything(AddressFamily::Inet).map_err(at(GATEWAY, "setting the route to itself"))?;
    for (netlink, place, address) in [(&mut here, GATEWAY, GATEWAY_V6), (&mut there, SANDBOX, SANDBOX_V6)] {
        has_ipv6 = has_ipv6
            && unless_off(netlink.add_address(LINK_INDEX, address.into(), PREFIX_V6))
                .map_err(at(place, "setting the IPv6 address"))?;
    }
    if has_ipv6 {
        let set = there.add_default_route(GATEWAY_V6.into());
        set.map_err(at(SANDBOX, "setting the IPv6 default route"))?;
        let set = here.take_everything(AddressFamily::Inet6);
        set.map_err(at(GATEWAY, "setting the IPv6 route to itself"))?;
    }
    Ok(())
}

/// `false` where it failed because there is no IPv6.
fn unless_off(done: io::Result<()>) -> io::Result<bool> {
    match done {
        Ok(()) => Ok(true),
        Err(error) if is_off(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Pending {
    /// Waits until rules are in force; `false` if UDP other than DNS has to be refused, since the kernel has no `tproxy`. No tenant
    /// process may run before this returns.
    pub fn finish(mut self) -> Result<bool, GatewayError> {
        let Some(nft) = self.nft.take() else { return Ok(true) };
        match loaded(nft) {
            Ok(()) => Ok(true),
            // Nothing of them is in force: they are loaded as a whole or not at all.
            Err(GatewayError::Rules(_)) => {
                loaded(spawn_nft(&nft_ruleset_without_udp(GATEWAY_LINK))?)?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Pending {
    /// Nobody waits for the rules any more: as long as `nft` lives, the cgroups that it was started in cannot be removed.
    fn drop(&mut self) {
        if let Some(mut nft) = self.nft.take() {
            let _ = nft.kill();
            let _ = nft.wait();
        }
    }
}

fn loaded(nft: Child) -> Result<(), GatewayError> {
    let output = nft.wait_with_output().map_err(GatewayError::Nft)?;
    if output.status.success() {
        return Ok(());
    }
    Err(GatewayError::Rules(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// `nft` is the node's own program, run with the keeper's rights over its own namespace and nothing else.
#[allow(clippy::disallowed_methods)]
fn spawn_nft(rules: &str) -> Result<Child, GatewayError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GatewayError::Nft)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(GatewayError::Nft)?;
    }
    Ok(child)
}

/// Enters a network namespace, does one thing, and comes back.
fn in_namespace<T>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> Result<T, GatewayError> {
    let enter = |place| move |source| GatewayError::Enter { place, source };
    let home = std::fs::File::open("/proc/self/ns/net")
        .map_err(|source| GatewayError::Netlink { place: GATEWAY, source })?;
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(enter(SANDBOX))?;
    let result = work();
    setns(home.as_fd(), CloneFlags::CLONE_NEWNET).map_err(enter(GATEWAY))?;
    Ok(result)
}
