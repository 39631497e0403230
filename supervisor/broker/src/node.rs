//! Where packets to an address would go, asked of the kernel at the moment of a decision, so that no address is missed.
//!
//! A question to the routing table also finds what cannot be bound to: anycast addresses of a node that forwards, networks that
//! are routed to the node as a whole, broadcast addresses. The socket is made before the broker confines itself.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

static ROUTES: OnceLock<Mutex<Routes>> = OnceLock::new();
/// The kernel answers before `send` returns.
const PATIENCE: Duration = Duration::from_secs(1);
const ANSWERS: usize = 8;

/// What the kernel would do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    /// It is for the node itself, or for everybody on one of its networks.
    Here,
    Nowhere,
}

/// To be called before the broker is confined.
pub(crate) fn open_routes() -> io::Result<()> {
    let routes = Routes::open()?;
    ROUTES.get_or_init(|| Mutex::new(routes));
    Ok(())
}

/// Whether packets to `address` stay on this node. What cannot be told counts as the node's.
pub(crate) fn owns(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => {
            let foreign = error.kind() == ErrorKind::AddrNotAvailable
                || error.raw_os_error() == Some(libc::EAFNOSUPPORT);
            !foreign || !matches!(way(address), Ok(Way::Out | Way::Nowhere))
        }
    }
}

/// Whether the node has a way to `address`.
pub(crate) fn reaches(address: IpAddr) -> bool {
    matches!(way(address), Ok(Way::Out | Way::Here))
}

/// Whether the kernel lets a socket bind to foreign addresses, which makes every address look like the node's.
pub(crate) fn binds_anything() -> bool {
    UdpSocket::bind((IpAddr::from([198, 51, 100, 1]), 0)).is_ok()
}

fn way(address: IpAddr) -> io::Result<Way> {
    let routes = match ROUTES.get() {
        Some(routes) => routes,
        None => {
            open_routes()?;
            ROUTES.get().ok_or(ErrorKind::NotConnected)?
        }
    };
    routes.lock().unwrap_or_else(PoisonError::into_inner).ask(address)
}

/// A routing socket, one question at a time.
struct Routes {
    socket: OwnedFd,
    sequence: u32,
}

const NLMSG_ERROR: u16 = 2;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTN_UNICAST: u8 = 1;
/// Local, broadcast, anycast, multicast.
const RTN_HERE: std::ops::RangeInclusive<u8> = 2..=5;
const HEADER: usize = 16;

impl Routes {
    fn open() -> io::Result<Self> {
        // Without a protocol it is one for routes.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    fn ask(&mut self, address: IpAddr) -> io::Result<Way> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.socket, &question(address, self.sequence), SendFlags::empty())?;
        let mut answer = [0; 4096];
        // An answer that came too late for an earlier question is passed over.
        for _ in 0..ANSWERS {
            let (length, _) = recv(&self.socket, &mut answer, RecvFlags::empty())?;
            if let Some(way) = read(&answer[..length.min(4096)], self.sequence) {
                return way;
            }
        }
        Err(ErrorKind::InvalidData.into())
    }
}

/// `nlmsghdr`, `rtmsg`, and the address as the attribute of where to.
fn question(address: IpAddr, sequence: u32) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    // Both fit into a byte.
    let family = u8::try_from(family).unwrap_or_default();
    let bits = u8::try_from(octets.len() * 8).unwrap_or_default();
    let length = HEADER + 12 + 4 + octets.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or_default().to_ne_bytes());
    bytes.extend(RTM_GETROUTE.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, bits]);
    bytes.extend([0; 10]);
    bytes.extend(u16::try_from(4 + octets.len()).unwrap_or_default().to_ne_bytes());
    bytes.extend(RTA_DST.to_ne_bytes());
    bytes.extend(octets);
    bytes
}

/// `None` for the answer to another question.
fn read(answer: &[u8], sequence: u32) -> Option<io::Result<Way>> {
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let kind = answer.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    if word(8)? != sequence {
        return None;
    }
    Some(match kind {
        RTM_NEWROUTE => match answer.get(HEADER + 7) {
            Some(&RTN_UNICAST) => Ok(Way::Out),
            Some(kind) if RTN_HERE.contains(kind) => Ok(Way::Here),
            // A route that refuses.
            Some(_) => Ok(Way::Nowhere),
            None => Err(ErrorKind::InvalidData.into()),
        },
        NLMSG_ERROR => {
            let code = word(HEADER)?.cast_signed().wrapping_neg();
            match code {
                libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EAFNOSUPPORT
                | libc::EOPNOTSUPP => Ok(Way::Nowhere),
                code => Err(io::Error::from_raw_os_error(code)),
            }
        }
        _ => Err(ErrorKind::InvalidData.into()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_a_documentation_address_is_not() {
        for ours in ["127.0.0.1", "127.9.9.9"] {
            let address: IpAddr = ours.parse().unwrap();
            assert!(owns(address) && reaches(address), "{ours}");
            assert_eq!(way(address).unwrap(), Way::Here, "{ours}");
        }
        for foreign in ["203.0.113.7", "2001:db8::7"] {
            let address: IpAddr = foreign.parse().unwrap();
            assert!(!owns(address), "{foreign}");
            assert_ne!(way(address).unwrap(), Way::Here, "{foreign}");
        }
    }

    #[test]
    fn what_is_for_everybody_counts_as_ours() {
        assert_eq!(way("127.255.255.255".parse().unwrap()).unwrap(), Way::Here);
        assert!(owns("127.255.255.255".parse().unwrap()));
    }

    #[test]
    fn answers_to_others_and_broken_ones_are_told_apart() {
        let address: IpAddr = "127.0.0.1".parse().unwrap();
        let mut answer = question(address, 7);
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        answer[HEADER + 7] = 2;
        assert_eq!(read(&answer, 7).unwrap().unwrap(), Way::Here);
        assert!(read(&answer, 8).is_none());
        answer[HEADER + 7] = 7;
        assert_eq!(read(&answer, 7).unwrap().unwrap(), Way::Nowhere);
        assert!(read(&answer[..HEADER], 7).unwrap().is_err());
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        answer[HEADER..HEADER + 4].copy_from_slice(&(-libc::ENETUNREACH).to_ne_bytes());
        assert_eq!(read(&answer, 7).unwrap().unwrap(), Way::Nowhere);
        answer[HEADER..HEADER + 4].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(read(&answer, 7).unwrap().unwrap_err().raw_os_error(), Some(libc::EPERM));
        for length in 0..12 {
            assert!(read(&answer[..length], 7).is_none());
        }
    }
}
