//! What must hold of whatever reads hostile bytes, whatever the bytes. `fuzz/` asks it of bytes that it makes up, this crate's
//! test of the seeds in `fuzz/seeds` and of small changes of them. A check that does not hold panics.

mod condition;
mod dns;
mod document;
mod http;
mod policy;
mod tls;

pub use condition::condition;
pub use dns::dns;
pub use document::document;
pub use http::http;
pub use policy::policy;
pub use tls::tls;

/// Of bytes.
pub type Check = fn(&[u8]);

/// By the name of its seeds and of its fuzz target.
pub const ALL: [(&str, Check); 6] = [
    ("condition", condition),
    ("dns", dns),
    ("document", document),
    ("http", http),
    ("policy", policy),
    ("tls", tls),
];
