//! Netlink: other network namespaces, the gateway's rules and routes, the kernel's multicast.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    sys::time::TimeVal,
};

use super::network;
use crate::{Layer, Probe};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE_EXCL: u16 = 0x600;
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const IFLA_MTU: u16 = 4;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
/// The sandbox's link, and the gateway's at the other end.
pub const LINK: u32 = 2;

/// A netlink socket of one protocol that waits for answers, though not for long.
pub struct Netlink(OwnedFd);

impl Netlink {
    pub fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::new(2, 0))?;
        Ok(Self(fd))
    }

    pub fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// Sends a request and returns the first answer that is not an acknowledgement; an error is an error.
    pub fn ask(&self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<Vec<u8>> {
        // An acknowledgement that comes after an answer would be taken for that of the next request.
        let acknowledge = if kind == RTM_GETLINK { 0 } else { NLM_F_ACK };
        self.send(&message(kind, flags | NLM_F_REQUEST | acknowledge, payload))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        sendto(self.0.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; 64 << 10];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(length);
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let kind = u16::from_ne_bytes(buffer.get(4..6).and_then(|b| b.try_into().ok()).ok_or_else(short)?);
        if kind != NLMSG_ERROR {
            return Ok(buffer);
        }
        let code = i32::from_ne_bytes(buffer.get(16..20).and_then(|b| b.try_into().ok()).ok_or_else(short)?);
        if code == 0 { Ok(Vec::new()) } else { Err(io::Error::from_raw_os_error(-code)) }
    }

    /// An address of the sandbox's link, added or removed.
    pub fn address(&self, add: bool, address: [u8; 4], prefix: u8) -> io::Result<()> {
        let mut payload = vec![libc::AF_INET as u8, prefix, 0, 0];
        payload.extend(LINK.to_ne_bytes());
        for kind in [1, 2] {
            payload.extend(attribute(kind, &address));
        }
        let (kind, flags) = if add { (RTM_NEWADDR, NLM_F_CREATE_EXCL) } else { (RTM_DELADDR, 0) };
        self.ask(kind, flags, &payload).map(drop)
    }

    /// An IPv6 address of the sandbox's link, added or removed.
    pub fn ipv6(&self, add: bool, address: [u8; 16]) -> io::Result<()> {
        let create = if add { NLM_F_CREATE_EXCL } else { 0 };
        // 2: without a check for duplicates.
        let mut payload = vec![libc::AF_INET6 as u8, 64, 2, 0];
        payload.extend(LINK.to_ne_bytes());
        payload.extend(attribute(1, &address));
        self.ask(if add { RTM_NEWADDR } else { RTM_DELADDR }, create, &payload).map(drop)
    }

    /// A route to `to`, by way of the sandbox's link, added or removed.
    pub fn route_to(&self, add: bool, to: [u8; 4], prefix: u8) -> io::Result<()> {
        // Main table, static, link scope, unicast.
        let mut payload = vec![libc::AF_INET as u8, prefix, 0, 0, 254, 4, 253, 1, 0, 0, 0, 0];
        payload.extend(attribute(1, &to));
        payload.extend(attribute(4, &LINK.to_ne_bytes()));
        let (kind, flags) = if add { (RTM_NEWROUTE, NLM_F_CREATE_EXCL) } else { (RTM_DELROUTE, 0) };
        self.ask(kind, flags, &payload).map(drop)
    }
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(16 + payload.len()).unwrap_or_default().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(4 + value.len()).unwrap_or_default().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `ifinfomsg` and attributes.
fn link(index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut payload = vec![0; 4];
    payload.extend(index.to_ne_bytes());
    payload.extend([0; 8]);
    attributes.iter().for_each(|attribute| payload.extend(attribute));
    payload
}

/// The number by which the sandbox's namespace knows the gateway's, as the link tells it.
fn gateway_id(answer: &[u8]) -> Option<u32> {
    let mut rest = answer.get(32..)?;
    while rest.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        if kind == IFLA_LINK_NETNSID {
            return rest.get(4..8)?.try_into().ok().map(u32::from_ne_bytes);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
    None
}

pub fn across_namespaces(probe: &mut Probe) {
    match Netlink::route() {
        Ok(route) => peer(probe, &route),
        Err(error) => probe.broken("opening a netlink socket", error),
    }
    flush_rules(probe);
    let audit = Netlink::open(SockProtocol::NetlinkAudit).and_then(|audit| {
        const AUDIT_GET: u16 = 1000;
        audit.ask(AUDIT_GET, 0, &[])
    });
    let denied = [Errno::EPERM, Errno::ECONNREFUSED, Errno::EPROTONOSUPPORT, Errno::EAGAIN];
    probe.refused("ask the audit system", Layer::UserNamespace, &denied, audit);
    let crypto = Netlink::open(SockProtocol::NetlinkCrypto);
    probe.refused(
        "speak to the kernel's crypto configuration",
        Layer::NetworkNamespace,
        &[Errno::EPROTONOSUPPORT, Errno::EPERM],
        crypto.and_then(|crypto| crypto.ask(16, 0, &[0; 64])),
    );
    uevents(probe);
}

fn peer(probe: &mut Probe, route: &Netlink) {
    let id = route.ask(RTM_GETLINK, 0, &link(LINK, &[])).ok().and_then(|answer| gateway_id(&answer));
    let Some(id) = id else { return probe.broken("the gateway's namespace id", "the link does not tell it") };
    let denied = [Errno::EPERM, Errno::EACCES, Errno::EINVAL, Errno::EOPNOTSUPP];
    let target = attribute(IFLA_TARGET_NETNSID, &id.to_ne_bytes());
    let looked = route.ask(RTM_GETLINK, 0, &link(LINK, std::slice::from_ref(&target)));
    probe.refused("look at the gateway's link by its namespace's id", Layer::UserNamespace, &denied, looked);
    let mtu = attribute(IFLA_MTU, &1400_u32.to_ne_bytes());
    let changed = route.ask(RTM_NEWLINK, 0, &link(LINK, &[target.clone(), mtu]));
    probe.refused("change it", Layer::UserNamespace, &denied, changed);
    let mut payload = vec![libc::AF_INET as u8, 32, 0, 0];
    payload.extend(LINK.to_ne_bytes());
    payload.extend(attribute(2, &[10, 1, 2, 3]));
    payload.extend(attribute(10, &id.to_ne_bytes()));
    // In requests for addresses the id is only known to those that ask, not to those that change.
    let addressed = route.ask(RTM_NEWADDR, NLM_F_CREATE_EXCL, &payload);
    let here = route.address(false, [10, 1, 2, 3], 32);
    let seen = format!("{:?}; removed here: {here:?}", addressed.map(drop));
    probe.confined("add an address to the gateway", Layer::NamespaceScope, Ok(seen));
    for (name, pid) in foreign(probe) {
        let moved = route.ask(RTM_NEWLINK, 0, &link(LINK, &[attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes())]));
        probe.refused(format!("move the link to {name}"), Layer::PidNamespace, &[Errno::ESRCH], moved);
    }
    // Its own routes it may change as it likes; the driver looks at the gateway's.
    let to = [10, 77, 0, 0];
    let routed = route.route_to(true, to, 16).and_then(|()| route.route_to(false, to, 16));
    probe.confined("change routes", Layer::NamespaceScope, Ok(format!("{routed:?}")));
}

fn foreign(probe: &Probe) -> Vec<(String, u32)> {
    let pids =
        probe.facts.with_prefix("pid.").filter_map(|(key, pid)| Some((key.to_owned(), pid.parse().ok()?)));
    pids.filter(|(_, pid)| !std::path::Path::new(&format!("/proc/{pid}")).exists()).collect()
}

/// What `nft flush ruleset` does, then a look at whether the node can be reached now.
fn flush_rules(probe: &mut Probe) {
    const BATCH_BEGIN: u16 = 16;
    const BATCH_END: u16 = 17;
    const DELETE_TABLE: u16 = 10 << 8 | 2;
    const NFTABLES: [u8; 4] = [0, 0, 0, 10];
    let flushed = Netlink::open(SockProtocol::NetlinkNetFilter).and_then(|netfilter| {
        let mut batch = message(BATCH_BEGIN, NLM_F_REQUEST, &NFTABLES);
        batch.extend(message(DELETE_TABLE, NLM_F_REQUEST | NLM_F_ACK, &[0; 4]));
        batch.extend(message(BATCH_END, NLM_F_REQUEST, &NFTABLES));
        netfilter.send(&batch).map(drop)
    });
    let outcome = format!("{flushed:?}");
    let reached = network::any_node_address(&probe.facts);
    let seen = reached.map_or_else(|| Ok(format!("{outcome}; the node stays out of reach")), Err);
    probe.confined("flush all rules", Layer::NetworkNamespace, seen);
}

/// Device events of the machine, and forged ones to its listeners.
fn uevents(probe: &mut Probe) {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkKObjectUEvent,
    );
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            let denied = [Errno::EPERM, Errno::EPROTONOSUPPORT];
            return probe.refused(
                "open a uevent socket",
                Layer::NetworkNamespace,
                &denied,
                Err::<(), _>(error),
            );
        }
    };
    let forged = bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1)).and_then(|()| {
        let event =
            b"add@/devices/cordium-escape\0ACTION=add\0DEVPATH=/devices/cordium-escape\0SUBSYSTEM=escape\0";
        sendto(socket.as_raw_fd(), event, &NetlinkAddr::new(0, 1), MsgFlags::empty())
    });
    // The driver listens on the node's side.
    probe.confined(
        "send a forged uevent",
        Layer::NetworkNamespace,
        Ok(format!("{forged:?}; heard here only")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_padded() {
        assert_eq!(attribute(3, b"eth0\0").len(), 12);
        let bytes = message(RTM_GETLINK, NLM_F_REQUEST, &[1; 5]);
        assert_eq!((bytes.len(), u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])), (24, 21));
    }

    #[test]
    fn the_gateways_id_is_found_among_attributes() {
        let mut answer = vec![0; 32];
        answer.extend(attribute(3, b"eth0\0"));
        answer.extend(attribute(IFLA_LINK_NETNSID, &7_u32.to_ne_bytes()));
        assert_eq!(gateway_id(&answer), Some(7));
        assert_eq!(gateway_id(&answer[..40]), None);
    }
}
