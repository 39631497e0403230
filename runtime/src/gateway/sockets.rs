//! The sockets that the broker serves: one each, and two to answer datagrams with. Those that listen are for both families, at any address of the gateway.
//!
//! `nft` sends a redirected packet to the first address of the link, of its own family. A socket for both takes IPv4 in mapped
//! form, and the kernel still tells where such a connection wanted to go; so the broker needs one listener, one queue and one
//! count of flows. Which packets come that far is for the rules to say, not for the address that is bound.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use cordium_broker::{DNS_PORT, Sockets, TCP_PORT, UDP_PORT};
use nix::sys::socket::{setsockopt, sockopt as nix_sockopt};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen as listen_on, socket_with, sockopt,
};

use super::GatewayError;

/// Connections that wait for the broker; the namespace's `somaxconn` is as much.
const BACKLOG: i32 = 4096;

pub struct Listeners {
    pub tcp: OwnedFd,
    pub udp_dns: OwnedFd,
    pub tcp_dns: OwnedFd,
    udp: OwnedFd,
    raw_v4: OwnedFd,
    raw_v6: Option<OwnedFd>,
}

impl Listeners {
    pub fn sockets(&self) -> Sockets<'_> {
        Sockets {
            tcp: self.tcp.as_fd(),
            udp_dns: self.udp_dns.as_fd(),
            tcp_dns: self.tcp_dns.as_fd(),
            udp: self.udp.as_fd(),
            raw_v4: self.raw_v4.as_fd(),
            raw_v6: self.raw_v6.as_ref().map(AsFd::as_fd),
        }
    }
}

/// Makes the broker's sockets in the calling thread's network namespace.
pub fn listen() -> Result<Listeners, GatewayError> {
    let listener = |port| {
        let socket = bound(SocketType::STREAM, port)?;
        listen_on(&socket, BACKLOG).map_err(|error| GatewayError::Listen { port, source: error.into() })?;
        Ok(socket)
    };
    Ok(Listeners {
        tcp: listener(TCP_PORT)?,
        udp_dns: bound(SocketType::DGRAM, DNS_PORT)?,
        tcp_dns: listener(DNS_PORT)?,
        udp: transparent().map_err(|source| GatewayError::Listen { port: UDP_PORT, source })?,
        raw_v4: raw(AddressFamily::INET).map_err(GatewayError::Raw)?,
        raw_v6: match raw(AddressFamily::INET6) {
            Ok(socket) => Some(socket),
            // The kernel has no IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(GatewayError::Raw(error)),
        },
    })
}

/// Takes what `tproxy` gives it, and tells where that was going.
fn transparent() -> io::Result<OwnedFd> {
    let socket = try_bound(SocketType::DGRAM, UDP_PORT)?;
    setsockopt(&socket, nix_sockopt::IpTransparent, &true)?;
    setsockopt(&socket, nix_sockopt::Ipv4OrigDstAddr, &true)?;
    if sockopt::socket_domain(&socket)? == AddressFamily::INET6 {
        setsockopt(&socket, nix_sockopt::Ipv6OrigDstAddr, &true)?;
    }
    Ok(socket)
}

/// Sends packets with the headers that they are given, and receives nothing.
fn raw(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?)
}

fn bound(kind: SocketType, port: u16) -> Result<OwnedFd, GatewayError> {
    try_bound(kind, port).map_err(|source| GatewayError::Listen { port, source })
}

fn try_bound(kind: SocketType, port: u16) -> io::Result<OwnedFd> {
    let made = |family| socket_with(family, kind, SocketFlags::CLOEXEC, None);
    let (socket, address) = match made(AddressFamily::INET6) {
        Ok(socket) => {
            sockopt::set_ipv6_v6only(&socket, false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        // The kernel has no IPv6.
        Err(rustix::io::Errno::AFNOSUPPORT) => {
            (made(AddressFamily::INET)?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        Err(error) => return Err(error.into()),
    };
    bind(&socket, &address)?;
    Ok(socket)
}
