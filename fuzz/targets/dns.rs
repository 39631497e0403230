//! A query and an answer to it, one after the other with the length of the first before them.
#![no_main]

use cordium_broker::fuzzing::{Asked, addresses, dns};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (query, answer) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
    addresses(answer);
    match dns(query, answer) {
        Asked::Ignored => {}
        // An answer is no query: two resolvers do not keep each other busy.
        Asked::Answered(reply) => assert_eq!(dns(&reply, answer), Asked::Ignored),
        Asked::Forwarded(name, sent) => {
            let Some(sent) = sent else { return };
            let Asked::Forwarded(again, _) = dns(&sent, answer) else { panic!("{name:?} was not asked for") };
            assert_eq!(name, again);
        }
    }
});
