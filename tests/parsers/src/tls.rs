//! A ClientHello.

use cordium_broker::parsers::{First, first};
use rustls::server::Acceptor;

/// Checks that whatever comes in whatever pieces has one verdict, and that the name that we read is the one that a server reads.
pub fn tls(bytes: &[u8]) {
    let whole = first(bytes);
    comes_in_pieces(bytes, &whole);
    let First::Tls(ours) = whole else { return };
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                if let Some(theirs) = accepted.client_hello().server_name() {
                    assert!(ours.eq_ignore_ascii_case(theirs), "{ours:?} and {theirs:?}");
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// A beginning is not told yet, or it is what the whole is.
pub fn comes_in_pieces(bytes: &[u8], whole: &First) {
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let begun = first(&bytes[..end]);
        assert!(begun == First::Incomplete || begun == *whole, "{begun:?} became {whole:?}");
    }
}
