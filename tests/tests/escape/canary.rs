//! What a sandbox must not reach on the node: listeners with a secret word, a world-writable directory, an abstract socket,
//! and an ear for the kernel's device events.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use cordium_tests::{Context, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

pub struct Canary {
    /// Only ever sent by a listener that no sandbox may reach.
    pub secret: String,
    pub secret_port: u16,
    /// Sent on the port that the node opens.
    pub open_word: String,
    pub open_port: u16,
    /// The name of an abstract socket in the node's network namespace.
    pub abstract_name: String,
    heard: Arc<AtomicUsize>,
    uevents: Option<OwnedFd>,
    _abstract: UnixListener,
}

impl Canary {
    pub fn start(tag: &str) -> Result<Self> {
        let (secret, open_word) = (format!("secret-{tag}"), format!("open-{tag}"));
        let heard = Arc::new(AtomicUsize::new(0));
        // Of both families, where the node has both.
        let mut everywhere = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let tcp = TcpListener::bind((everywhere, 0)).or_else(|_| {
            everywhere = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            TcpListener::bind((everywhere, 0))
        });
        let tcp = tcp.context("listening everywhere")?;
        let secret_port = tcp.local_addr()?.port();
        answer_tcp(tcp, secret.clone(), Arc::clone(&heard));
        answer_udp(UdpSocket::bind((everywhere, secret_port))?, secret.clone(), Arc::clone(&heard));
        // Where something else serves names already, that one is not reached either; it only does not count.
        for port in [53, 853, 5353] {
            if let Ok(udp) = UdpSocket::bind((everywhere, port)) {
                answer_udp(udp, secret.clone(), Arc::clone(&heard));
            }
            if let Ok(tcp) = TcpListener::bind((everywhere, port)) {
                answer_tcp(tcp, secret.clone(), Arc::clone(&heard));
            }
        }
        let open = TcpListener::bind("127.0.0.1:0").context("listening on loopback")?;
        let open_port = open.local_addr()?.port();
        answer_tcp(open, open_word.clone(), Arc::new(AtomicUsize::new(0)));
        let abstract_name = format!("cordium-escape-{tag}");
        let address = SocketAddr::from_abstract_name(&abstract_name)?;
        let listener = UnixListener::bind_addr(&address).context("listening on an abstract socket")?;
        let uevents = listen_to_uevents();
        Ok(Self {
            secret,
            secret_port,
            open_word,
            open_port,
            abstract_name,
            heard,
            uevents,
            _abstract: listener,
        })
    }

    /// How many times somebody came to a listener that no sandbox may reach.
    pub fn heard(&self) -> usize {
        self.heard.load(Ordering::SeqCst)
    }

    /// A forged device event that came in since the last look.
    pub fn forged_event(&self) -> Option<String> {
        let socket = self.uevents.as_ref()?;
        let mut buffer = [0; 8192];
        while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains("cordium-escape") {
                return Some(text);
            }
        }
        None
    }
}

/// Both groups: the kernel's, and the one that udev's listeners trust.
fn listen_to_uevents() -> Option<OwnedFd> {
    let protocol = SockProtocol::NetlinkKObjectUEvent;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).ok()?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 3)).ok()?;
    Some(socket)
}

fn answer_tcp(listener: TcpListener, word: String, heard: Arc<AtomicUsize>) {
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            heard.fetch_add(1, Ordering::SeqCst);
            let word = word.clone();
            thread::spawn(move || {
                // Who connects and says nothing is not waited for.
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                let _ = stream.read(&mut [0; 64]);
                let _ = stream.write_all(word.as_bytes());
            });
        }
    });
}

fn answer_udp(socket: UdpSocket, word: String, heard: Arc<AtomicUsize>) {
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            heard.fetch_add(1, Ordering::SeqCst);
            let _ = socket.send_to(word.as_bytes(), from);
        }
    });
}
