//! A packet for the workspaces' name server, and what another one answers to it.

use cordium_broker::parsers::{Asked, addresses, dns as ask};

/// Checks a query and an answer to it, one after the other with the length of the first before them.
pub fn dns(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (query, answer) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
    addresses(answer);
    match ask(query, answer) {
        Asked::Ignored => {}
        // An answer is no query: two resolvers do not keep each other busy.
        Asked::Answered(reply) => assert_eq!(ask(&reply, answer), Asked::Ignored),
        Asked::Forwarded(name, sent) => {
            let Some(sent) = sent else { return };
            let Asked::Forwarded(again, _) = ask(&sent, answer) else { panic!("{name:?} was not asked for") };
            assert_eq!(name, again);
        }
    }
}
