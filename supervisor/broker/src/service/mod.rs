//! Services: names inside a workspace behind which the broker logs in to servers elsewhere, so that no password and no key is
//! ever inside.
//!
//! A service has an address of its own in the workspace, which leads nowhere but here. The client connects without a credential; the
//! broker reaches the server, makes sure that it is the one, logs in, and passes on what follows.

mod postgres;
mod table;
mod terms;
mod upstream;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

pub(crate) use postgres::Keys;
pub(crate) use table::{Ready, Table};
pub(crate) use terms::MAX_TERMS;
pub use terms::{Place, Protocol, Service, Services};

use crate::denials::Why;
use crate::end::End;
use crate::flow::Flows;
use crate::policy::why;

/// Connections to services that one workspace may have: each may take buffers of TLS on one side.
const MAX_CONNECTIONS: usize = 256;
/// From the client's first byte to a session.
const SETTING_UP: Duration = Duration::from_secs(60);

/// What the connections of a workspace to its services share.
pub(crate) struct Shared {
    connections: Semaphore,
    /// One login at a time hashes.
    hashing: Semaphore,
    keys: Keys,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            connections: Semaphore::new(MAX_CONNECTIONS),
            hashing: Semaphore::new(1),
            keys: Keys::default(),
        }
    }
}

/// One connection to a service.
struct Connection<'a> {
    flows: &'a Flows,
    ready: &'a Arc<Ready>,
}

/// Why a connection to a service came to nothing: for the client, and among the denials if somebody may want to change something.
struct Refusal {
    /// As PostgreSQL has them.
    code: &'static str,
    message: String,
    hint: &'static str,
    why: Option<Why>,
}

impl Refusal {
    /// By the node or the policy.
    fn denied(ready: &Ready, why: Why) -> Self {
        let message = format!("cordium: service {}: {} ({})", ready.name, why.reason, why.rule);
        Self { code: "42501", message, hint: why.next, why: Some(why) }
    }

    fn unreached(ready: &Ready, problem: &str) -> Self {
        let message = format!("cordium: service {}: {problem}", ready.name);
        Self { code: "08001", message, hint: "check the server and what the spec says of it", why: None }
    }

    /// By the broker, on account of the server.
    fn mistrusted(ready: &Ready, reason: &'static str, next: &'static str, detail: &str) -> Self {
        let message = format!("cordium: service {}: {reason}: {detail}", ready.name);
        let why = Why { rule: rule(ready), reason, next };
        Self { code: "08001", message, hint: next, why: Some(why) }
    }

    fn revoked(ready: &Ready) -> Self {
        Self::denied(ready, taken_away(ready))
    }
}

fn taken_away(ready: &Ready) -> Why {
    let reason = "the credential of the service has been taken away";
    Why { rule: rule(ready), reason, next: "ask whoever has the secret to set it again" }
}

fn rule(ready: &Ready) -> String {
    format!("service {}", ready.name)
}

/// Serves one connection to a service until one of the sides ends, or it is no longer to be.
pub(crate) async fn serve(flows: &Flows, ready: &Arc<Ready>, client: End, destination: std::net::SocketAddr) {
    let names = std::slice::from_ref(&ready.host);
    let Ok(_permit) = flows.services.connections.try_acquire() else {
        let why = why("max-services", "too many connections to services are open", "close some");
        flows.denied(client.peer(), Some(destination), names, why).await;
        return;
    };
    let peer = client.peer();
    let connection = Connection { flows, ready };
    let ended = match &ready.protocol {
        Protocol::Postgresql { .. } => connection.postgres(client).await,
    };
    match ended {
        Ok(()) => {}
        Err(Ended::Io(error)) => {
            debug!(workspace = flows.workspace, service = ready.name, %error, "connection to a service broken");
        }
        Err(Ended::Denied(why)) => drop(flows.denied(peer, Some(destination), names, why).await),
    }
}

/// How a connection ended that did not end well.
enum Ended {
    Io(std::io::Error),
    Denied(Why),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl Connection<'_> {
    /// Returns when the service's credential has been taken away, or the policy denies its server.
    async fn taken_away(&self, server: std::net::SocketAddr) -> Why {
        let revoked = self.flows.rules.unserved(&self.ready.name);
        let denied = async {
            let mut changes = self.flows.rules.changes();
            loop {
                if let Err(why) = self.allows(self.ready, server) {
                    return why;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = revoked => taken_away(self.ready),
            why = denied => why,
        }
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    Ok(timeout(SETTING_UP, work).await?)
}
