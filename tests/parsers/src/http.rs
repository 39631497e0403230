//! The head of an HTTP/1 request.

use cordium_broker::parsers::{First, first, is_http};

use crate::tls::comes_in_pieces;

/// Checks that whatever comes in whatever pieces has one verdict, and that the host that we read is the only one that another
/// reader could find.
pub fn http(bytes: &[u8]) {
    let whole = first(bytes);
    comes_in_pieces(bytes, &whole);
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
}
