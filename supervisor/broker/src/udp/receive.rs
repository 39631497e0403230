//! Datagrams with where they were going.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub length: usize,
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// One that is waiting; `None` for one that cannot be answered.
pub(super) fn receive(socket: &impl AsRawFd, bytes: &mut [u8]) -> io::Result<Option<Received>> {
    let mut control = cmsg_space!(libc::sockaddr_in6);
    let mut slices = [IoSliceMut::new(bytes)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let destination = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(v4(&address)),
        ControlMessageOwned::Ipv6OrigDstAddr(address) => Some(v6(&address)),
        _ => None,
    });
    let whole = !message.flags.contains(MsgFlags::MSG_TRUNC);
    let source = message.address.as_ref().and_then(address);
    Ok(match (source, destination) {
        (Some(source), Some(destination)) if whole => {
            // The socket is for both families and has IPv4 in mapped form.
            let ip = if destination.is_ipv4() { source.ip().to_canonical() } else { source.ip() };
            let source = SocketAddr::new(ip, source.port());
            Some(Received { length: message.bytes, source, destination })
        }
        _ => None,
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port()))))
}

fn v4(address: &libc::sockaddr_in) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr));
    (ip, u16::from_be(address.sin_port)).into()
}

fn v6(address: &libc::sockaddr_in6) -> SocketAddr {
    let ip: IpAddr = Ipv6Addr::from(address.sin6_addr.s6_addr).into();
    (ip, u16::from_be(address.sin6_port)).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    #[test]
    fn both_families_come_with_their_destination_and_what_has_none_is_passed_over() {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client_v6 = UdpSocket::bind("[::1]:0").unwrap();
        let mut bytes = [0; 8];
        client.send_to(b"no", ("127.0.0.1", port)).unwrap();
        assert_eq!(receive(&socket, &mut bytes).unwrap(), None);
        setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true).unwrap();
        setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true).unwrap();
        for (client, address) in [(&client, "127.0.0.1"), (&client_v6, "::1")] {
            for sent in [&b"hello"[..], b""] {
                let destination = SocketAddr::new(address.parse().unwrap(), port);
                client.send_to(sent, destination).unwrap();
                let received = receive(&socket, &mut bytes).unwrap().unwrap();
                assert_eq!(
                    received,
                    Received { length: sent.len(), source: client.local_addr().unwrap(), destination }
                );
                assert_eq!(&bytes[..sent.len()], sent);
            }
        }
        client.send_to(b"too long for it", ("127.0.0.1", port)).unwrap();
        assert_eq!(receive(&socket, &mut bytes).unwrap(), None);
        assert_eq!(receive(&socket, &mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
