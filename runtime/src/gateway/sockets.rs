//! The sockets that the broker serves: one each for both families, at any address of the gateway.
//!
//! `nft` sends a redirected packet to the first address of the link, of its own family. A socket for both takes IPv4 in mapped
//! form, and the kernel still tells where such a connection wanted to go; so the broker needs one listener, one queue and one
//! count of flows. Which packets come that far is for the rules to say, not for the address that is bound.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use cordium_broker::{DNS_PORT, TCP_PORT};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen as listen_on, socket_with, sockopt};

use super::GatewayError;

/// Connections that wait for the broker; the namespace's `somaxconn` is as much.
const BACKLOG: i32 = 4096;

pub struct Listeners {
    pub tcp: OwnedFd,
    pub udp_dns: OwnedFd,
    pub tcp_dns: OwnedFd,
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
    })
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
