//! The head of an HTTP/1 request: one verdict for whatever comes in whatever pieces, and the host that we read is the
//! only one that another reader could find.
#![no_main]

use cordium_broker::fuzzing::{First, first, is_http};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = first(bytes);
    for end in (0..bytes.len()).step_by(1 + bytes.len() / 64) {
        let begun = first(&bytes[..end]);
        assert!(begun == First::Incomplete || begun == whole, "{begun:?} became {whole:?}");
    }
    let First::Http(ours) = whole else { return };
    assert!(is_http(bytes));
    let mut headers = [httparse::EMPTY_HEADER; 1024];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let hosts: Vec<&[u8]> = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .map(|header| header.value)
        .collect();
    let [theirs] = hosts.as_slice() else { panic!("{} Host headers, and we read {ours:?}", hosts.len()) };
    let theirs = std::str::from_utf8(theirs).expect("a Host that is read is text").trim();
    let rest = theirs
        .get(..ours.len())
        .filter(|host| host.eq_ignore_ascii_case(&ours))
        .map(|_| &theirs[ours.len()..]);
    let rest = rest.unwrap_or_else(|| panic!("{ours:?} and {theirs:?}"));
    assert!(rest.is_empty() || rest.starts_with(':'), "{ours:?} and {theirs:?}");
});
