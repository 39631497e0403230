//! Looks at each request of HTTP where the policy goes by method and path, and puts a workspace's credentials on its requests, so
//! that they are never inside it.
//!
//! A TLS connection to a host that has such rules or a credential ends here, with a certificate of the workspace's own authority.
//! Each request is checked, has its placeholder replaced, and goes on to the server over TLS whose certificate is verified. Plain
//! HTTP is looked at for rules only. All other connections pass untouched.

mod answer;
mod authority;
mod claims;
mod credentials;
mod hold;
mod hop;
mod inspection;
mod replace;
mod request;
mod roots;
mod secret;
mod serve;
mod sigv4;
mod target;
#[cfg(test)]
mod testing;
mod tls;
mod upstream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use authority::AuthorityError;
pub use cordium_egress::binding::Inject;
pub(crate) use credentials::MAX_CREDENTIALS;
pub use credentials::{Authority, Binding, Credentials, CredentialsError};
pub(crate) use inspection::Inspection;
pub(crate) use roots::Roots;
pub use secret::Secret;
pub(crate) use serve::{Place, Way, serve};
pub(crate) use tls::is_certificate;

/// The most that the head of a request or an answer may take.
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 256;
/// What a connection of HTTP/2 keeps of bodies that are on their way: of each stream towards its reader, and of all from their
/// sender.
const SEND_BUFFER: usize = 32 * 1024;
const WINDOW: u32 = 1 << 20;

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
