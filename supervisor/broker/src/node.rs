//! Which addresses are the node's own, asked of the kernel at the moment of a decision, so that none is missed.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

/// Whether packets to `address` stay on this node. What cannot be told counts as the node's.
pub(crate) fn owns(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Ok(_) => true,
        Err(error) => {
            error.kind() != ErrorKind::AddrNotAvailable && error.raw_os_error() != Some(libc::EAFNOSUPPORT)
        }
    }
}

/// Whether the kernel lets a socket bind to foreign addresses, which makes every address look like the node's.
pub(crate) fn binds_anything() -> bool {
    owns(IpAddr::from([198, 51, 100, 1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours_and_a_documentation_address_is_not() {
        assert!(owns(IpAddr::from([127, 0, 0, 1])));
        assert!(!owns(IpAddr::from([203, 0, 113, 7])));
    }
}
