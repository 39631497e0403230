//! Datagrams between one port of the sandbox and one destination.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cordium_egress::{Host, Moment};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recvfrom, send, socket_with,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tracing::debug;

use super::back::Back;

/// RFC 4787 asks a translator to keep a mapping for two minutes.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// Datagrams that are passed on before others have their turn.
pub(super) const TURN: usize = 32;
/// Datagrams, and that there will be none.
const ANSWERS: Interest = Interest::READABLE.add(Interest::ERROR);
/// After an error that is not about one datagram.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest datagram, and one byte that tells a longer one.
const LONGEST: usize = 65_536;

thread_local! {
    static BYTES: RefCell<Box<[u8]>> = RefCell::new(vec![0; LONGEST].into());
}

/// Room for one datagram, while nothing is waited for: one of each thread is enough.
pub(super) fn with_room<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    BYTES.with_borrow_mut(|bytes| work(bytes))
}

/// Where datagrams come from and where they want to go, as the sandbox has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

pub(super) struct Flow {
    pub key: Key,
    /// Those that led to the destination when the flow began.
    pub names: Arc<[Host]>,
    /// Conditions on the time go by this.
    pub began: Moment,
    /// Of the node's, until it ends.
    _share: OwnedSemaphorePermit,
    /// Connected: the kernel passes on what comes from the destination, and nothing else.
    socket: UdpSocket,
    made: Instant,
    /// When the last datagram passed, in milliseconds after it was made.
    used: AtomicU64,
}

impl Flow {
    pub(super) fn open(
        key: Key,
        names: Arc<[Host]>,
        began: Moment,
        share: OwnedSemaphorePermit,
    ) -> io::Result<Self> {
        let socket = connected(target(key.destination))?;
        Ok(Self { key, names, began, _share: share, socket, made: Instant::now(), used: AtomicU64::new(0) })
    }

    /// How long no datagram has passed.
    pub(super) fn quiet(&self) -> Duration {
        let used = Duration::from_millis(self.used.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(used)
    }

    fn touch(&self) {
        let used = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.used.store(used, Ordering::Relaxed);
    }

    /// Passes a datagram on, or loses it.
    pub(super) fn send(&self, bytes: &[u8], back: &Back) {
        self.touch();
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // Not by the runtime, for which a new socket is not ready yet.
        if send(&self.socket, bytes, flags) == Err(rustix::io::Errno::CONNREFUSED) {
            // Said of an earlier one.
            self.refuse(back);
            let _ = send(&self.socket, bytes, flags);
        }
    }

    pub(super) fn refuse(&self, back: &Back) {
        back.refuse(self.key.source, self.key.destination, 0);
    }

    /// Passes answers back until no datagram has passed for a while.
    pub(super) async fn receive(&self, back: &Back) {
        loop {
            let left = IDLE.saturating_sub(self.quiet());
            if left.is_zero() {
                return;
            }
            match timeout(left, self.socket.ready(ANSWERS)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    return debug!(destination = %self.key.destination, %error, "waiting for answers");
                }
                Err(_) => continue,
            }
            if let Err(error) = self.pass_back(back) {
                debug!(destination = %self.key.destination, %error, "receiving an answer");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn pass_back(&self, back: &Back) -> io::Result<()> {
        with_room(|bytes| {
            for _ in 0..TURN {
                match self.next(bytes) {
                    // One may have come before the socket was connected.
                    Ok((_, peer)) if peer != Some(target(self.key.destination)) => {}
                    Ok((length, _)) => {
                        self.touch();
                        back.answer(
                            self.key.destination,
                            self.key.source,
                            bytes.get(..length).unwrap_or_default(),
                        );
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.refuse(back),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    /// A datagram, or an error that has come instead of one. The runtime tries for one of the two at a time.
    fn next(&self, bytes: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        match self.socket.try_io(Interest::READABLE, || receive(&self.socket, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.try_io(Interest::ERROR, || receive(&self.socket, bytes))
            }
            received => received,
        }
    }
}

/// What was received, and from whom.
fn receive(socket: &UdpSocket, bytes: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
    let (length, _, peer) = recvfrom(socket, bytes, RecvFlags::DONTWAIT)?;
    Ok((length, peer.and_then(|peer| peer.try_into().ok())))
}

/// Where the node sends them.
fn target(destination: SocketAddr) -> SocketAddr {
    SocketAddr::new(destination.ip().to_canonical(), destination.port())
}

/// It has no time in which anybody may send to it: its port is chosen when it is connected.
fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    connect(&socket, &target)?;
    UdpSocket::from_std(socket.into())
}
