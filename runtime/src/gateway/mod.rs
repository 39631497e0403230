//! The gateway: the keeper's own network namespace, through which everything that leaves the sandbox must pass.
//!
//! ```text
//!  sandbox netns (owned by I)              gateway netns (owned by O)
//!  eth0 100.127.255.254/30 ◀── veth ──▶ gw0 100.127.255.253/30
//!  default via .253                         nft: TCP → :15001, DNS → :15053, the rest refused
//!                                           listeners ──descriptors──▶ broker (outside)
//! ```
//! Nothing is forwarded: the gateway has no other link.

mod netlink;

use std::{
    io::{self, Write},
    net::{SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
};

use cordium_broker::{DNS_PORT, GATEWAY_V4, PREFIX, SANDBOX_V4, TCP_PORT, nft_ruleset};
use netlink::{LOOPBACK, Netlink};
use nix::sched::{CloneFlags, setns};

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
    #[error("listening on {address} in the gateway: {source}")]
    Listen { address: SocketAddrV4, source: io::Error },
}

/// The sockets that the broker serves.
pub struct Listeners {
    pub tcp: OwnedFd,
    pub udp_dns: OwnedFd,
    pub tcp_dns: OwnedFd,
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
    Ok(Pending { nft: Some(spawn_nft()?) })
}

/// Links the calling thread's network namespace with `sandbox`.
pub fn link(sandbox: BorrowedFd<'_>) -> Result<(), GatewayError> {
    let mut here = Netlink::open().map_err(|source| GatewayError::Netlink { place: GATEWAY, source })?;
    let mut there = in_namespace(sandbox, Netlink::open)?
        .map_err(|source| GatewayError::Netlink { place: SANDBOX, source })?;
    let at = |place, step| move |source| GatewayError::Configure { place, step, source };
    here.add_veth(GATEWAY_LINK, LINK_INDEX, SANDBOX_LINK, LINK_INDEX, sandbox)
        .map_err(at(GATEWAY, "making the veth pair"))?;
    for (netlink, place, address) in [(&mut here, GATEWAY, GATEWAY_V4), (&mut there, SANDBOX, SANDBOX_V4)] {
        netlink.set_up(LOOPBACK).map_err(at(place, "bringing loopback up"))?;
        netlink.add_address(LINK_INDEX, address, PREFIX).map_err(at(place, "setting the address"))?;
        netlink.set_up(LINK_INDEX).map_err(at(place, "bringing the link up"))?;
    }
    there.add_default_route(GATEWAY_V4).map_err(at(SANDBOX, "setting the default route"))
}

impl Pending {
    /// Waits until the rules are in force. No tenant process may run before this returns.
    pub fn finish(mut self) -> Result<(), GatewayError> {
        let Some(nft) = self.nft.take() else { return Ok(()) };
        let output = nft.wait_with_output().map_err(GatewayError::Nft)?;
        if output.status.success() {
            return Ok(());
        }
        Err(GatewayError::Rules(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
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

/// Makes the broker's sockets in the calling thread's network namespace.
pub fn listen() -> Result<Listeners, GatewayError> {
    let tcp = SocketAddrV4::new(GATEWAY_V4, TCP_PORT);
    let dns = SocketAddrV4::new(GATEWAY_V4, DNS_PORT);
    let listen =
        |address| TcpListener::bind(address).map_err(|source| GatewayError::Listen { address, source });
    Ok(Listeners {
        tcp: listen(tcp)?.into(),
        udp_dns: UdpSocket::bind(dns).map_err(|source| GatewayError::Listen { address: dns, source })?.into(),
        tcp_dns: listen(dns)?.into(),
    })
}

/// `nft` is the node's own program, run with the keeper's rights over its own namespace and nothing else.
#[allow(clippy::disallowed_methods)]
fn spawn_nft() -> Result<Child, GatewayError> {
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
        stdin.write_all(nft_ruleset(GATEWAY_LINK).as_bytes()).map_err(GatewayError::Nft)?;
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
