//! One message with descriptors over a sequenced-packet socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Room for more descriptors than are expected, so that a sender of too many is told so.
const ROOM: usize = 8;

pub(crate) fn send(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let room = descriptors.len() <= ROOM;
    if !descriptors.is_empty() && (!room || !control.push(SendAncillaryMessage::ScmRights(descriptors))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message. An empty one is the end of the connection; one that does not fit is an error.
/// Descriptors that came with an unusable message are closed.
pub(crate) fn receive(socket: impl AsFd, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message is too long or has too many descriptors",
        ));
    }
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn message_and_descriptors_arrive() {
        let (left, right) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&left, b"hello", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (message, mut descriptors) = receive(&right, 16).unwrap();
        assert_eq!(message, b"hello");
        std::fs::File::from(descriptors.pop().unwrap()).write_all(b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 1);
        assert!(descriptors.is_empty());
    }

    #[test]
    fn a_long_message_is_an_error_and_its_descriptors_are_closed() {
        let (left, right) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&left, &[0; 32], &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(receive(&right, 16).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(rustix::io::read(&reader, &mut [0]).unwrap(), 0, "the writer's last copy is closed");
    }

    #[test]
    fn too_many_descriptors_are_refused_by_the_sender() {
        let (left, _right) = pair();
        let many = [left.as_fd(); ROOM + 1];
        assert!(send(&left, b"x", &many).is_err());
    }

    #[test]
    fn the_end_is_an_empty_message() {
        let (left, right) = pair();
        drop(left);
        assert!(receive(&right, 16).unwrap().0.is_empty());
    }
}
