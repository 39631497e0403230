//! The way back into the sandbox.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg_addr};

use super::bucket::Bucket;
use super::packet;

/// Refusals a second; what is beyond is dropped in silence.
const REFUSALS: u32 = 200;

/// Raw sockets of the gateway. They write whole packets and receive nothing.
pub(crate) struct Back {
    v4: OwnedFd,
    /// None where the kernel has no IPv6.
    v6: Option<OwnedFd>,
    /// Of the next datagram that is cut.
    id: AtomicU32,
    refusals: Mutex<Bucket>,
}

impl Back {
    pub(crate) fn new(v4: OwnedFd, v6: Option<OwnedFd>) -> Self {
        let refusals = Mutex::new(Bucket::new(REFUSALS, REFUSALS, Instant::now()));
        Self { v4, v6, id: AtomicU32::new(1), refusals }
    }

    /// Tells `to` what `from` has answered.
    pub(super) fn answer(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let id = self.id.fetch_add(1, Ordering::Relaxed);
        for packet in packet::datagram(from, to, id, bytes) {
            self.send(to.ip(), &[IoSlice::new(packet.head()), IoSlice::new(packet.body)]);
        }
    }

    /// Tells `source` that its datagrams to `destination` go nowhere.
    pub(super) fn refuse(&self, source: SocketAddr, destination: SocketAddr, length: usize) {
        let admitted = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if let Some(packet) = packet::refusal(source, destination, length).filter(|_| admitted) {
            self.send(source.ip(), &[IoSlice::new(&packet)]);
        }
    }

    /// What the link does not take now is lost, as on any network.
    fn send(&self, to: IpAddr, packet: &[IoSlice<'_>]) {
        let socket = if to.is_ipv4() { Some(&self.v4) } else { self.v6.as_ref() };
        if let Some(socket) = socket {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let none = &mut SendAncillaryBuffer::default();
            let _ = sendmsg_addr(socket, &SocketAddr::new(to, 0), packet, none, flags);
        }
    }
}
