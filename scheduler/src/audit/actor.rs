//! Who asks: the process behind a unix socket, or the certificate of a connection.

use sha2::{Digest as _, Sha256};
use tonic::{Request, transport::server::UdsConnectInfo};

pub fn of<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    if let Some(pid) = peer.and_then(|peer| peer.pid()) {
        return format!("{} (pid {pid})", user(request));
    }
    user(request)
}

/// The same for every process of one user.
pub fn user<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    if let Some(peer) = peer {
        return format!("uid {}", peer.uid());
    }
    match request.peer_certs().as_deref().and_then(|chain| chain.first()) {
        Some(leaf) => format!("certificate sha256:{}", hex::encode(Sha256::digest(leaf))),
        None => "unknown".to_owned(),
    }
}
