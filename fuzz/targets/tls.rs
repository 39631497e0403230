//! A ClientHello: whatever comes, in whatever pieces, ends in one verdict, and a name that we read is the one that a
//! server reads.
#![no_main]

use cordium_broker::fuzzing::{First, first};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|bytes: &[u8]| {
    let whole = first(bytes);
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let begun = first(&bytes[..end]);
        assert!(begun == First::Incomplete || begun == whole, "{begun:?} became {whole:?}");
    }
    let First::Tls(ours) = whole else { return };
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let theirs = accepted.client_hello().server_name().map(str::to_owned);
                if let Some(theirs) = theirs {
                    assert!(ours.eq_ignore_ascii_case(&theirs), "{ours:?} and {theirs:?}");
                }
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
});
