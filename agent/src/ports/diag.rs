//! The kernel's list of TCP sockets that listen, its word when one is closed, and whose socket a connection is: NETLINK_SOCK_DIAG, which needs no
//! privilege and shows the socket's own network namespace only. A dump of listeners does not touch connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};
use tokio::io::unix::AsyncFd;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NETLINK_HEADER: usize = 16;
const SOCKET_MESSAGE: usize = 72;
const LISTEN: u8 = 10;
/// SKNLGRP_INET_TCP_DESTROY and SKNLGRP_INET6_TCP_DESTROY.
const CLOSED: u32 = 1 << 0 | 1 << 2;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 << 10;
/// Sockets looked at in a dump; a sandbox may have as many as its descriptors allow.
const MOST: usize = 65_536;
/// Messages read at a time; more wait for the next time.
const BATCH: usize = 256;

/// One socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub inode: u32,
}

/// All that listens now.
pub fn listeners() -> io::Result<Vec<Listener>> {
    let socket = open(0)?;
    let mut found = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        match dump(&socket, family, &mut found) {
            // A kernel without this family.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            other => other?,
        }
    }
    Ok(found)
}

fn dump(socket: &OwnedFd, family: AddressFamily, found: &mut Vec<Listener>) -> io::Result<()> {
    send(socket, &request(family), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        for message in messages(&buffer[..length]) {
            match message {
                Message::Socket(socket) => match socket.listener() {
                    Some(_) if found.len() >= MOST => {
                        return Err(io::Error::other("too many sockets listen"));
                    }
                    listener => found.extend(listener),
                },
                Message::Done => return Ok(()),
                Message::Error(number) => return Err(io::Error::from_raw_os_error(number)),
                Message::Other => {}
            }
        }
    }
}

/// The socket of a TCP connection from here, by its number. Another namespace's, as a nested container's, is not found.
pub fn connection(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let socket = open(0)?;
    let tcp = rustix::net::ipproto::TCP.as_raw().get() as u8;
    send(&socket, &exact(tcp, NLM_F_REQUEST, local, Some(remote)), SendFlags::empty())?;
    let mut buffer = vec![0; 4096];
    let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    let found = messages(buffer.get(..length).unwrap_or_default()).find_map(|message| match message {
        // Without such a connection the kernel takes one that listens.
        Message::Socket(socket) if socket.state != LISTEN && socket.inode != 0 => Some(Ok(socket.inode)),
        Message::Error(number) if number == Errno::NOENT.raw_os_error() => None,
        Message::Error(number) => Some(Err(io::Error::from_raw_os_error(number))),
        _ => None,
    });
    found.transpose()
}

/// A UDP socket that sends from here: connected or not, on this address or on any.
pub fn datagram(local: SocketAddr) -> io::Result<Option<u32>> {
    let socket = open(0)?;
    let udp = rustix::net::ipproto::UDP.as_raw().get() as u8;
    let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let mut buffer = vec![0; BUFFER];
    // A socket for both families is one of IPv6.
    for of in [local, SocketAddr::new(any, local.port())] {
        send(&socket, &exact(udp, NLM_F_REQUEST_DUMP, of, None), SendFlags::empty())?;
        let (mut found, mut done) = (None, false);
        while !done {
            let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            for message in messages(buffer.get(..length).unwrap_or_default()) {
                match message {
                    Message::Socket(socket) => {
                        let ip = socket.local.ip();
                        let fits =
                            socket.local.port() == local.port() && (ip.is_unspecified() || ip == local.ip());
                        if fits && socket.inode != 0 {
                            found = found.or(Some(socket.inode));
                        }
                    }
                    Message::Done => done = true,
                    Message::Error(number) if number == Errno::NOENT.raw_os_error() => done = true,
                    Message::Error(number) => return Err(io::Error::from_raw_os_error(number)),
                    Message::Other => {}
                }
            }
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// `inet_diag_req_v2` for a socket with these ends; in a dump the kernel compares no more than the port.
fn exact(protocol: u8, flags: u16, local: SocketAddr, remote: Option<SocketAddr>) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut body = Vec::with_capacity(56);
    body.extend([family.as_raw() as u8, protocol, 0, 0]);
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.map_or(0, |remote| remote.port()).to_be_bytes());
    for address in [Some(local), remote] {
        let mut bytes = [0; 16];
        match address.map(|address| address.ip()) {
            Some(IpAddr::V4(address)) => bytes[..4].copy_from_slice(&address.octets()),
            Some(IpAddr::V6(address)) => bytes = address.octets(),
            None => {}
        }
        body.extend(bytes);
    }
    // The interface: any. The cookie: none.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    message_of(flags, &body)
}

fn message_of(flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(NETLINK_HEADER + body.len());
    message.extend(((NETLINK_HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender.
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = if groups == 0 { SocketFlags::CLOEXEC } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// `inet_diag_req_v2` for every socket of a family that listens.
fn request(family: AddressFamily) -> Vec<u8> {
    let mut body = Vec::with_capacity(56);
    body.extend([family.as_raw() as u8, rustix::net::ipproto::TCP.as_raw().get() as u8, 0, 0]);
    body.extend((1u32 << LISTEN).to_ne_bytes());
    // Ports, addresses and the interface: any. The cookie: none.
    body.extend([0; 40]);
    body.extend([0xff; 8]);
    message_of(NLM_F_REQUEST_DUMP, &body)
}

/// Tells when a socket that listened is closed.
pub struct Closings(AsyncFd<OwnedFd>);

impl Closings {
    pub fn open() -> io::Result<Self> {
        Ok(Self(crate::sys::watch(open(CLOSED)?)?))
    }

    /// Waits until sockets were closed; true if one of them listened, or if the kernel had to drop messages.
    pub async fn next(&self) -> io::Result<bool> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0; 1024];
        let mut listened = false;
        for _ in 0..BATCH {
            match recv(self.0.get_ref(), buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    let ended = |message| matches!(message, Message::Socket(socket) if !socket.connected);
                    listened |= messages(&buffer[..length.min(buffer.len())]).any(ended);
                }
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    break;
                }
                Err(Errno::NOBUFS) => listened = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(listened)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Socket {
    state: u8,
    local: SocketAddr,
    connected: bool,
    inode: u32,
}

impl Socket {
    fn listener(&self) -> Option<Listener> {
        (self.state == LISTEN).then_some(Listener { address: self.local, inode: self.inode })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Message {
    Socket(Socket),
    Done,
    Error(i32),
    Other,
}

/// What is not whole is left out.
fn messages(mut data: &[u8]) -> impl Iterator<Item = Message> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(field(data, 0)?) as usize;
        let body = data.get(NETLINK_HEADER..length)?;
        let message = match u16::from_ne_bytes(field(data, 4)?) {
            NLMSG_DONE => Message::Done,
            NLMSG_ERROR => Message::Error(i32::from_ne_bytes(field(body, 0)?).saturating_neg()),
            SOCK_DIAG_BY_FAMILY => socket(body).map_or(Message::Other, Message::Socket),
            _ => Message::Other,
        };
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// `inet_diag_msg`.
fn socket(body: &[u8]) -> Option<Socket> {
    let body: &[u8; SOCKET_MESSAGE] = body.first_chunk()?;
    let address = match u16::from(body[0]) {
        family if family == AddressFamily::INET.as_raw() => IpAddr::from(Ipv4Addr::from(field(body, 8)?)),
        family if family == AddressFamily::INET6.as_raw() => {
            IpAddr::from(Ipv6Addr::from(field(body, 8)?)).to_canonical()
        }
        _ => return None,
    };
    Some(Socket {
        state: body[1],
        local: SocketAddr::new(address, u16::from_be_bytes(field(body, 4)?)),
        connected: field(body, 6)? != [0; 2],
        inode: u32::from_ne_bytes(field(body, 68)?),
    })
}

fn field<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::time::Duration;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((NETLINK_HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn messages_that_are_cut_or_lie_about_their_length_end_the_list() {
        let mut body = [0; SOCKET_MESSAGE];
        body[..2].copy_from_slice(&[2, LISTEN]);
        body[4..6].copy_from_slice(&3000u16.to_be_bytes());
        body[8..12].copy_from_slice(&[127, 0, 0, 1]);
        body[68..].copy_from_slice(&77u32.to_ne_bytes());
        let whole = message(SOCK_DIAG_BY_FAMILY, &body);
        let listener = Listener { address: "127.0.0.1:3000".parse().unwrap(), inode: 77 };
        let two = [whole.clone(), message(NLMSG_DONE, &[0; 4])].concat();
        let read: Vec<_> = messages(&two).collect();
        assert!(matches!(&read[..], [Message::Socket(s), Message::Done] if s.listener() == Some(listener)));
        body[6..8].copy_from_slice(&50_000u16.to_be_bytes());
        let connection = message(SOCK_DIAG_BY_FAMILY, &body);
        assert!(matches!(
            messages(&connection).next(),
            Some(Message::Socket(Socket { connected: true, .. }))
        ));
        for cut in 0..whole.len() {
            assert_eq!(messages(&whole[..cut]).count(), 0, "{cut}");
        }
        for length in [0u32, 15, u32::MAX] {
            let mut lies = whole.clone();
            lies[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(messages(&lies).count(), 0, "{length}");
        }
        assert_eq!(messages(&message(SOCK_DIAG_BY_FAMILY, &body[..71])).next(), Some(Message::Other));
        let refused = message(NLMSG_ERROR, &(-2i32).to_ne_bytes());
        assert_eq!(messages(&refused).next(), Some(Message::Error(2)));
    }

    #[test]
    fn a_socket_is_listed_while_it_listens() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let there = || listeners().unwrap().iter().any(|found| found.address == address);
            assert!(there());
            drop(listener);
            assert!(!there());
        }
    }

    #[test]
    fn the_socket_of_a_connection_is_found_while_it_stands() {
        use std::net::{TcpStream, UdpSocket};
        fn inode(socket: &impl std::os::fd::AsFd) -> u32 {
            rustix::fs::fstat(socket).unwrap().st_ino as u32
        }
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(server) = TcpListener::bind(address) else { continue };
            let remote = server.local_addr().unwrap();
            let client = TcpStream::connect(remote).unwrap();
            let local = client.local_addr().unwrap();
            assert_eq!(connection(local, remote).unwrap(), Some(inode(&client)));
            let other = SocketAddr::new(remote.ip(), 1);
            assert_eq!(connection(local, other).unwrap(), None);
            // Not the listener's, which the kernel offers instead.
            assert_eq!(connection(remote, other).unwrap(), None);

            let asks = UdpSocket::bind(address).unwrap();
            let local = asks.local_addr().unwrap();
            assert_eq!(datagram(local).unwrap(), Some(inode(&asks)));
            asks.connect(remote).unwrap();
            assert_eq!(datagram(local).unwrap(), Some(inode(&asks)));
            drop(asks);
            assert_eq!(datagram(local).unwrap(), None);
        }
        // One socket for both families, as an address of IPv4.
        if let Ok(both) = UdpSocket::bind("[::]:0") {
            let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), both.local_addr().unwrap().port());
            assert_eq!(datagram(local).unwrap(), Some(inode(&both)));
        }
    }

    #[tokio::test]
    async fn a_closed_listener_is_told() {
        let closings = Closings::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        drop(listener);
        let told = async { while !closings.next().await.unwrap() {} };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    }
}
