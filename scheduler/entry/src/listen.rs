//! Loopback, both of it: what is not taken here could be taken by somebody else, to whom a browser would then tell the token.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::net::TcpListener;

/// Free ports of IPv4 that are tried, until one is free for IPv6 as well.
const TRIES: usize = 16;

/// Listens on this port, or on a free one for 0.
pub async fn bind(port: u16) -> io::Result<(Vec<TcpListener>, u16)> {
    let mut last = io::Error::from(ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let four = TcpListener::bind((IpAddr::from(Ipv4Addr::LOCALHOST), port)).await?;
        let bound = four.local_addr()?.port();
        match TcpListener::bind((IpAddr::from(Ipv6Addr::LOCALHOST), bound)).await {
            Ok(six) => return Ok((vec![four, six], bound)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && port == 0 => last = error,
            Err(error) if has_no_ipv6(&error) => return Ok((vec![four], bound)),
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_port_is_taken_for_both_families_or_not_at_all() {
        let (listeners, port) = bind(0).await.unwrap();
        assert!(listeners.iter().all(|listener| {
            let address = listener.local_addr().unwrap();
            address.ip().is_loopback() && address.port() == port
        }));
        assert_eq!(bind(port).await.unwrap_err().kind(), ErrorKind::AddrInUse);
        let Ok(six) = TcpListener::bind("[::1]:0").await else { return };
        let taken = six.local_addr().unwrap().port();
        let refused = bind(taken).await;
        assert!(refused.is_err(), "somebody else has its IPv6 side");
    }
}
