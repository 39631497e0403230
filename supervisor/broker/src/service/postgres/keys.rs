//! By which a client may have what its session is doing given up: keys of our own, each good for one open session of the workspace.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::inspect::provider;
use crate::service::table::Ready;

/// What a client says: the service's name, the process and the key that it was told.
type Ticket = (String, u32, [u8; 4]);

/// The open sessions of one workspace.
#[derive(Default)]
pub(crate) struct Keys(Mutex<HashMap<Ticket, Session>>);

/// Where a session is, and how its server knows it.
#[derive(Clone)]
pub(super) struct Session {
    pub server: SocketAddr,
    pub process: u32,
    pub key: Vec<u8>,
}

/// A session's entry; it goes when the session does.
pub(super) struct Entry<'a> {
    keys: &'a Keys,
    ticket: Ticket,
}

impl Keys {
    /// Enters a session. The client is told the server's number of it, which it may also ask for, and a key of ours.
    pub(super) fn enter(&self, service: &Arc<Ready>, session: Session) -> Option<Entry<'_>> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = [0; 4];
        provider().secure_random.fill(&mut key).ok()?;
        let ticket = (service.name.clone(), session.process, key);
        sessions.insert(ticket.clone(), session);
        Some(Entry { keys: self, ticket })
    }

    pub(super) fn find(&self, service: &str, process: u32, key: &[u8]) -> Option<Session> {
        let ticket = (service.to_owned(), process, key.try_into().ok()?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&ticket).cloned()
    }
}

impl Entry<'_> {
    /// The message that tells the client.
    pub(super) fn message(&self) -> Vec<u8> {
        let (_, process, key) = &self.ticket;
        super::message::encode(b'K', &[process.to_be_bytes(), *key].concat())
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.ticket);
    }
}
