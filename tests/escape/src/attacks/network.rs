//! Attacks by packets. The driver listens on the node with a word that nobody may hear in a sandbox, and on one port that
//! the node opens, by which the attack shows that it could hear it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage,
        bind, connect, recv, sendto, setsockopt, socket, sockopt::ReceiveTimeout, sockopt::SendTimeout,
    },
    sys::time::TimeVal,
};

use super::netlink::{LINK, Netlink};
use crate::{Facts, Layer, Probe, sys};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 253);
const OWN: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 254);
const WAIT: Duration = Duration::from_millis(600);
/// For a name under `invalid`, which nobody answers with an address.
const QUERY: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07cordium\x07invalid\x00\x00\x01\x00\x01";

/// Connects, says a word, and returns what came back.
fn talk(to: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn ask(to: SocketAddr, packet: &[u8]) -> io::Result<String> {
    ask_from(None, to, packet)
}

fn ask_from(from: Option<Ipv6Addr>, to: SocketAddr, packet: &[u8]) -> io::Result<String> {
    let any = if to.is_ipv4() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(from.unwrap_or(Ipv6Addr::UNSPECIFIED))
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(WAIT))?;
    socket.connect(to)?;
    socket.send(packet)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// What an attempt means: only the secret word is an escape.
fn judge(facts: &Facts, answer: io::Result<String>) -> Result<String, String> {
    let secret = facts.get("secret").unwrap_or("no secret was given");
    match answer {
        Ok(answer) if answer.contains(secret) => Err(format!("it answered {answer:?}")),
        Ok(answer) => Ok(format!("another answered with {} bytes", answer.len())),
        Err(error) => {
            Ok(error.raw_os_error().map_or(error.to_string(), |code| format!("{:?}", Errno::from_raw(code))))
        }
    }
}

fn port(facts: &Facts) -> u16 {
    facts.get("secret_port").and_then(|port| port.parse().ok()).unwrap_or(9)
}

/// Every way to name the node.
fn node(facts: &Facts) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> =
        facts.list("addresses").iter().filter_map(|text| text.parse().ok()).collect();
    addresses.extend([GATEWAY, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED].map(IpAddr::V4));
    let mapped: Vec<IpAddr> = addresses
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(v4) => Some(IpAddr::V6(v4.to_ipv6_mapped())),
            IpAddr::V6(_) => None,
        })
        .collect();
    addresses.extend(mapped);
    addresses.push(IpAddr::V6(Ipv6Addr::LOCALHOST));
    addresses
}

/// What got through, if anything did.
pub fn any_node_address(facts: &Facts) -> Option<String> {
    let v4 = node(facts).into_iter().filter(IpAddr::is_ipv4);
    v4.filter_map(|address| judge(facts, talk((address, port(facts)).into())).err()).next()
}

/// The open port must answer from here, or the attacks below prove nothing.
fn control(probe: &mut Probe, from: Option<IpAddr>) -> bool {
    let open = probe.facts.get("open_port").and_then(|port| port.parse().ok()).unwrap_or(9);
    let word = probe.facts.get("open_word").unwrap_or("no word was given").to_owned();
    match talk_from(from, (GATEWAY, open).into()) {
        Ok(answer) if answer.contains(&word) => true,
        other => {
            probe.broken("reach the port that the node opens", format!("{other:?}"));
            false
        }
    }
}

pub fn node_addresses(probe: &mut Probe) {
    if probe.facts.get("host").is_none() && !control(probe, None) {
        return;
    }
    for address in node(&probe.facts) {
        let to = SocketAddr::from((address, port(&probe.facts)));
        let layer = if address.is_loopback() { Layer::NetworkNamespace } else { Layer::Broker };
        let seen = judge(&probe.facts, talk(to));
        probe.confined(format!("TCP to {to}"), layer, seen);
        let layer = if address.is_loopback() { Layer::NetworkNamespace } else { Layer::Gateway };
        let seen = judge(&probe.facts, ask(to, b"hello"));
        probe.confined(format!("UDP to {to}"), layer, seen);
    }
}

pub fn metadata(probe: &mut Probe) {
    for address in ["169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192"] {
        let Ok(address) = address.parse::<Ipv4Addr>() else { continue };
        let mut request = TcpStream::connect_timeout(&(address, 80).into(), WAIT).and_then(|mut stream| {
            stream.set_read_timeout(Some(WAIT))?;
            write!(stream, "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.take(4096).read_to_string(&mut answer)?;
            // The broker's ways to say no: taken, then closed; or an answer of its own.
            let is_refusal =
                answer.starts_with("HTTP/1.1 403 ") && answer.contains(r#"{"error":"egress denied","#);
            match answer.as_str() {
                "" => Err(Errno::ECONNRESET.into()),
                _ if is_refusal => Err(Errno::EACCES.into()),
                _ => Ok(answer),
            }
        });
        if let Err(error) = &request
            && error.kind() == io::ErrorKind::WouldBlock
        {
            request = Err(Errno::ETIMEDOUT.into());
        }
        let denied = [
            Errno::ECONNREFUSED,
            Errno::ECONNRESET,
            Errno::EACCES,
            Errno::EHOSTUNREACH,
            Errno::ENETUNREACH,
            Errno::EPIPE,
        ];
        probe.refused(format!("HTTP to {address}"), Layer::Broker, &denied, request);
    }
}

/// Connects from one of the own addresses.
fn talk_from(from: Option<IpAddr>, to: SocketAddr) -> io::Result<String> {
    let Some(from) = from else { return talk(to) };
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let wait = TimeVal::new(0, 600_000);
    setsockopt(&fd, SendTimeout, &wait)?;
    setsockopt(&fd, ReceiveTimeout, &wait)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let mut stream = TcpStream::from(fd);
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 256];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

pub fn spoofed(probe: &mut Probe) {
    if !control(probe, None) || !control(probe, Some(OWN.into())) {
        return;
    }
    let route = match Netlink::route() {
        Ok(route) => route,
        Err(error) => return probe.broken("opening a netlink socket", error),
    };
    let open = probe.facts.get("open_port").and_then(|port| port.parse().ok()).unwrap_or(9);
    let word = probe.facts.get("open_word").unwrap_or("no word was given").to_owned();
    // The network's own address, one of a neighbour's network, the node's loopback, one of the internet.
    for (address, prefix) in
        [([100, 127, 255, 252], 30), ([10, 99, 0, 2], 24), ([127, 0, 0, 7], 8), ([8, 8, 8, 8], 32)]
    {
        let from = Ipv4Addr::from(address);
        if let Err(error) = route.address(true, address, prefix) {
            probe.broken(format!("taking the address {from}"), error);
            continue;
        }
        let answer = talk_from(Some(from.into()), (GATEWAY, open).into());
        let _ = route.address(false, address, prefix);
        let seen = match answer {
            Ok(answer) if answer.contains(&word) => Err("it was answered".to_owned()),
            other => Ok(format!("{other:?}")),
        };
        probe.confined(format!("connect from {from}"), Layer::Gateway, seen);
    }
    control(probe, Some(OWN.into()));
}

pub fn raw(probe: &mut Probe) {
    if !control(probe, None) {
        return;
    }
    for address in node(&probe.facts).into_iter().chain([IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8))]) {
        let IpAddr::V4(address) = address else { continue };
        if address.is_loopback() || address.is_unspecified() || address == GATEWAY {
            continue;
        }
        let seen = match echo(address) {
            Ok(true) => Err("an echo came back".to_owned()),
            Ok(false) => Ok("no echo".to_owned()),
            Err(error) => Ok(error.to_string()),
        };
        probe.confined(format!("raw ICMP echo to {address}"), Layer::Gateway, seen);
    }
    let frames = [
        ("a forged ARP answer for the gateway's address", arp(GATEWAY)),
        ("a forged ARP answer for an address of the internet", arp(Ipv4Addr::new(8, 8, 8, 8))),
        ("a frame of 802.1Q for another network", vlan()),
    ];
    for (name, frame) in frames {
        let sent = send_frame(&frame);
        // The link leads to the gateway alone: whoever is fooled is not a neighbour.
        let seen = if control(probe, None) {
            Ok(format!("{sent:?}; the gateway goes on"))
        } else {
            Err(format!("{sent:?}"))
        };
        probe.confined(name, Layer::Gateway, seen);
    }
}

/// Sends an echo request on a raw socket; true when the address itself answered.
fn echo(to: Ipv4Addr) -> io::Result<bool> {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::new(0, 300_000))?;
    // Type 8, with its checksum.
    let packet = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    sendto(
        fd.as_raw_fd(),
        &packet,
        &SockaddrIn::from(std::net::SocketAddrV4::new(to, 0)),
        MsgFlags::empty(),
    )?;
    let mut answer = [0; 256];
    for _ in 0..8 {
        let length = match recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(Errno::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let header = usize::from(answer[0] & 15) * 4;
        let from = Ipv4Addr::new(answer[12], answer[13], answer[14], answer[15]);
        if length > header && answer[header] == 0 && from == to {
            return Ok(true);
        }
    }
    Ok(false)
}

fn arp(claimed: Ipv4Addr) -> Vec<u8> {
    let mine = [2, 0, 0, 0, 0, 1];
    let mut frame = vec![0xff; 6];
    frame.extend(mine);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend(mine);
    frame.extend(claimed.octets());
    frame.extend([0xff; 6]);
    frame.extend(GATEWAY.octets());
    frame
}

fn vlan() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x81, 0, 0, 7]);
    frame.extend(&arp(GATEWAY)[12..]);
    frame
}

fn send_frame(frame: &[u8]) -> io::Result<usize> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    let mut bytes = [0_u8; 20];
    bytes[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&LINK.to_ne_bytes());
    bytes[11] = 6;
    bytes[12..18].copy_from_slice(&frame[..6]);
    Ok(sendto(fd.as_raw_fd(), frame, &link_address(bytes)?, MsgFlags::empty())?)
}

fn link_address(bytes: [u8; 20]) -> io::Result<LinkAddr> {
    sys::link_address(bytes).ok_or_else(|| io::Error::from(Errno::EINVAL))
}

pub fn ipv6(probe: &mut Probe) {
    let own = Ipv6Addr::new(0xfd48, 0x3aca, 0x68d9, 0, 0, 0, 0, 3);
    if UdpSocket::bind((own, 0)).is_err() {
        return probe.unsupported("IPv6", "this node's kernel does not have it, or it is switched off");
    }
    // Also makes the gateway's hardware address known.
    if !control(probe, None) {
        return;
    }
    // The gateway's resolver answers in place of any other: IPv6 works, or what follows proves nothing.
    let resolver = SocketAddr::from((Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888), 53));
    if let Err(error) = ask(resolver, QUERY) {
        return probe.broken("asking the gateway's resolver over IPv6", error);
    }
    let secret = port(&probe.facts);
    let mut targets: Vec<IpAddr> = node(&probe.facts).into_iter().filter(IpAddr::is_ipv6).collect();
    let known = [
        "fd48:3aca:68d9::2",
        "fd00:ec2::254",
        "2001:4860:4860::8888",
        "ff02::1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "2002:7f00:1::",
        "::127.0.0.1",
        "fec0::1",
    ];
    targets.extend(known.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
    match gateway_link_local() {
        Some(gateway) => targets.push(IpAddr::V6(gateway)),
        None => probe.broken("the gateway's link-local address", "its hardware address is not known"),
    }
    // By the route that every program takes, then under a name that is not the sandbox's.
    let other = Ipv6Addr::new(0xfd00, 0xc0, 0, 0, 0, 0, 0, 2);
    let route = match Netlink::route().and_then(|route| route.ipv6(true, other.octets()).map(|()| route)) {
        Ok(route) => route,
        Err(error) => return probe.broken("taking another IPv6 address", error),
    };
    for (from, layer) in [(own, Layer::Broker), (other, Layer::Gateway)] {
        for address in &targets {
            let to = match *address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
                    SocketAddr::V6(std::net::SocketAddrV6::new(v6, secret, 0, LINK))
                }
                address => SocketAddr::new(address, secret),
            };
            let seen = judge(&probe.facts, talk_from(Some(from.into()), to));
            probe.confined(format!("TCP from {from} to {to}"), layer, seen);
            let seen = judge(&probe.facts, ask_from(Some(from), to, b"hello"));
            probe.confined(format!("UDP from {from} to {to}"), Layer::Gateway, seen);
        }
    }
    let seen = match ask_from(Some(other), resolver, QUERY) {
        Ok(_) => Err("it was answered".to_owned()),
        Err(error) => Ok(error.to_string()),
    };
    probe.confined(format!("a query from {other}"), Layer::Gateway, seen);
    if let Err(error) = route.ipv6(false, other.octets()) {
        probe.broken("giving the IPv6 address back", error);
    }
}

/// The gateway's link-local address, after its hardware address.
fn gateway_link_local() -> Option<Ipv6Addr> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let line = table.lines().find(|line| line.starts_with(&GATEWAY.to_string()))?;
    let mac: Vec<u16> = line
        .split_whitespace()
        .nth(3)?
        .split(':')
        .filter_map(|part| u16::from_str_radix(part, 16).ok())
        .collect();
    let [a, b, c, d, e, f] = mac[..] else { return None };
    Some(Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f))
}

pub fn dns_elsewhere(probe: &mut Probe) {
    let query = QUERY;
    let mut framed = vec![0, u8::try_from(query.len()).unwrap_or_default()];
    framed.extend(query);
    let addresses: Vec<IpAddr> = node(&probe.facts)
        .into_iter()
        .filter(|address| address.is_ipv4() && !address.is_loopback())
        .collect();
    for address in addresses {
        let to = SocketAddr::from((address, 53));
        let seen = judge(&probe.facts, ask(to, query));
        probe.confined(format!("UDP query to {to}"), Layer::Gateway, seen);
        let answer = TcpStream::connect_timeout(&to, WAIT).and_then(|mut stream| {
            stream.set_read_timeout(Some(WAIT))?;
            stream.write_all(&framed)?;
            let mut answer = [0; 256];
            let length = stream.read(&mut answer)?;
            Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
        });
        let seen = judge(&probe.facts, answer);
        probe.confined(format!("TCP query to {to}"), Layer::Gateway, seen);
        // Names over other ports than 53.
        for port in [853, 5353] {
            let seen = judge(&probe.facts, ask((address, port).into(), query));
            probe.confined(format!("query to {address}:{port}"), Layer::Gateway, seen);
        }
    }
}

/// Address families that lead past the network namespace, or that are large and seldom looked at.
const FAMILIES: [(&str, libc::c_int); 20] = [
    ("vsock", libc::AF_VSOCK),
    ("alg", libc::AF_ALG),
    ("bluetooth", libc::AF_BLUETOOTH),
    ("can", libc::AF_CAN),
    ("tipc", libc::AF_TIPC),
    ("rds", libc::AF_RDS),
    ("key", libc::AF_KEY),
    ("xdp", libc::AF_XDP),
    ("nfc", libc::AF_NFC),
    ("ib", libc::AF_IB),
    ("mpls", libc::AF_MPLS),
    ("phonet", libc::AF_PHONET),
    ("ieee802154", libc::AF_IEEE802154),
    ("caif", libc::AF_CAIF),
    ("pppox", libc::AF_PPPOX),
    ("rxrpc", libc::AF_RXRPC),
    ("llc", libc::AF_LLC),
    ("ax25", libc::AF_AX25),
    ("kcm", 41),
    ("smc", 43),
];

pub fn families(probe: &mut Probe) {
    for (name, family) in FAMILIES {
        for (shown, kind) in
            [("stream", libc::SOCK_STREAM), ("datagram", libc::SOCK_DGRAM), ("raw", libc::SOCK_RAW)]
        {
            let made = sys::make_socket(family, kind);
            let unknown = [Errno::EAFNOSUPPORT];
            probe.refused(format!("open a {shown} socket of {name}"), Layer::SeccompFamilies, &unknown, made);
        }
    }
    // The check is on the whole argument's lower half: a family with bits above it is still that family.
    let made = sys::make_socket_wide(u64::from(libc::AF_VSOCK as u32) | 1 << 32);
    probe.refused("hide vsock's number", Layer::SeccompFamilies, &[Errno::EAFNOSUPPORT], made);
}

/// Kept so that the compiler checks that the address of a link has the size that is assumed.
const _: () = assert!(size_of::<libc::sockaddr_ll>() == 20);
