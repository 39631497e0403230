//! The TCP ports that listen in the sandbox's network namespace, for whoever asks.
//!
//! ```text
//!   asked once ──▶ look                              nobody asks: nothing runs
//!   followed   ──▶ look ─┬─ a listener was closed (told by the kernel) ──▶ look
//!                        └─ 250 ms                                     ──▶ look
//! ```
//!
//! The kernel tells of no listener that begins, to nobody without privilege over the machine: hence the looks while somebody
//! follows. docs/decisions/0055-listening-ports.md has what was tried. Followers share their looks.

mod diag;
mod owner;
mod programs;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use cordium_proto::v1::{ListeningPort, ListeningPorts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use diag::{Closings, Listener};
pub use owner::Owners;
use programs::{Processes, Program};

/// Ports in one list.
const MOST: usize = 1_024;
const FOLLOWERS: usize = 16;
const INTERVAL: Duration = Duration::from_millis(250);
/// After sockets were closed: many may be, in a busy workspace.
const PAUSE: Duration = Duration::from_millis(50);

type Out = mpsc::Sender<Result<ListeningPorts, Status>>;

pub struct Ports {
    last: Mutex<Last>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Last {
    at: Option<Instant>,
    /// By address, and by port first.
    known: Vec<Known>,
    left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    listener: Listener,
    since: SystemTime,
    program: Option<Program>,
}

impl Default for Ports {
    fn default() -> Self {
        Self { last: Mutex::default(), room: Arc::new(Semaphore::new(FOLLOWERS)) }
    }
}

impl Ports {
    /// A place among those who ask, held while they do.
    pub fn room(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{FOLLOWERS} callers watch this workspace's ports already"))
        })
    }

    /// What listens, as of `not_before` or later.
    pub async fn list(self: &Arc<Self>, not_before: Instant) -> Result<ListeningPorts, Status> {
        let ports = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || ports.look(not_before)).await;
        looked
            .map_err(|error| Status::internal(format!("looking for ports: {error}")))?
            .map_err(|error| Status::internal(format!("asking the kernel what listens: {error}")))
    }

    /// Tells of each change until the caller goes away.
    pub async fn follow(self: Arc<Self>, out: Out, _room: OwnedSemaphorePermit) {
        tokio::select! {
            () = out.closed() => {}
            ended = self.tell(&out) => if let Err(status) = ended {
                let _ = out.send(Err(status)).await;
            }
        }
    }

    async fn tell(self: &Arc<Self>, out: &Out) -> Result<(), Status> {
        let closings = Closings::open()
            .map_err(|error| Status::internal(format!("watching for closed sockets: {error}")))?;
        let mut told = None;
        let mut not_before = Instant::now();
        loop {
            let list = self.list(not_before).await?;
            if told.as_ref() != Some(&list) {
                if out.send(Ok(list.clone())).await.is_err() {
                    return Ok(());
                }
                told = Some(list);
            }
            let closed = async {
                loop {
                    match closings.next().await {
                        Ok(true) => return,
                        Ok(false) => tokio::time::sleep(PAUSE).await,
                        Err(error) => {
                            tracing::warn!(%error, "closed ports are told late");
                            return std::future::pending().await;
                        }
                    }
                }
            };
            tokio::time::sleep(PAUSE).await;
            not_before = match tokio::time::timeout(INTERVAL - PAUSE, closed).await {
                Ok(()) => Instant::now(),
                // Another follower's look will do.
                Err(_) => Instant::now().checked_sub(INTERVAL / 2).unwrap_or_else(Instant::now),
            };
        }
    }

    fn look(&self, not_before: Instant) -> io::Result<ListeningPorts> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_none_or(|at| at < not_before) {
            let at = Instant::now();
            let (listeners, left_out) = ordered(diag::listeners()?);
            let mut known = carry_over(&last.known, &listeners, SystemTime::now());
            if let Ok(processes) = Processes::open() {
                name(&mut known, &last.known, &processes);
            }
            *last = Last { at: Some(at), known, left_out };
        }
        Ok(ListeningPorts {
            items: last.known.iter().map(message).collect(),
            left_out: last.left_out.try_into().unwrap_or(u32::MAX),
        })
    }
}

/// By port and address, one of those that share an address, and no more than a list has; how many are left out.
fn ordered(mut listeners: Vec<Listener>) -> (Vec<Listener>, usize) {
    let key = |listener: &Listener| (listener.address.port(), listener.address.ip());
    listeners.sort_unstable_by_key(|listener| (key(listener), listener.inode));
    listeners.dedup_by_key(|listener| key(listener));
    let left_out = listeners.len().saturating_sub(MOST);
    listeners.truncate(MOST);
    (listeners, left_out)
}

/// What was known of these sockets, and of those that are new their time.
fn carry_over(before: &[Known], listeners: &[Listener], now: SystemTime) -> Vec<Known> {
    let before: HashMap<(SocketAddr, u32), &Known> =
        before.iter().map(|known| ((known.listener.address, known.listener.inode), known)).collect();
    listeners
        .iter()
        .map(|listener| match before.get(&(listener.address, listener.inode)) {
            Some(known) => (*known).clone(),
            None => Known { listener: *listener, since: now, program: None },
        })
        .collect()
}

/// Looks for the programs of new sockets, and of those whose program has gone; what could not be found before is not looked for
/// again.
fn name(known: &mut [Known], before: &[Known], processes: &Processes) {
    let mut wanted = Vec::new();
    for known in known.iter_mut() {
        let hidden = known.program.is_none() && before.contains(known);
        known.program = known.program.as_ref().and_then(|program| processes.program(program.pid));
        if known.program.is_none() && !hidden {
            wanted.push(known.listener.inode);
        }
    }
    if wanted.is_empty() {
        return;
    }
    let mut found = processes.holders(&wanted);
    for known in known.iter_mut().filter(|known| known.program.is_none()) {
        known.program = found.remove(&known.listener.inode);
    }
}

fn message(known: &Known) -> ListeningPort {
    let (pid, program) =
        known.program.as_ref().map_or((0, String::new()), |program| (program.pid, program.name.clone()));
    ListeningPort {
        port: known.listener.address.port().into(),
        protocol: "tcp".to_owned(),
        address: known.listener.address.ip().to_string(),
        program,
        pid,
        since: Some(known.since.into()),
        application: String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn listener(address: &str, inode: u32) -> Listener {
        Listener { address: address.parse().unwrap(), inode }
    }

    #[test]
    fn sockets_that_share_an_address_are_one_port() {
        let (list, left_out) = ordered(vec![
            listener("0.0.0.0:3000", 9),
            listener("[::1]:80", 4),
            listener("0.0.0.0:3000", 7),
            listener("127.0.0.1:80", 5),
        ]);
        let expected = [listener("127.0.0.1:80", 5), listener("[::1]:80", 4), listener("0.0.0.0:3000", 7)];
        assert_eq!((list.as_slice(), left_out), (expected.as_slice(), 0));
    }

    #[test]
    fn a_list_is_bounded_and_says_what_it_leaves_out() {
        let many = (1..=2_000).map(|port| listener(&format!("127.0.0.1:{port}"), port)).collect();
        let (list, left_out) = ordered(many);
        assert_eq!((list.len(), left_out, list[1_023].inode), (1_024, 976, 1_024));
    }

    #[test]
    fn the_time_is_that_of_the_socket_not_of_its_number() {
        let (early, late) = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let before = carry_over(&[], &[listener("127.0.0.1:80", 5), listener("127.0.0.1:81", 6)], early);
        let after = carry_over(&before, &[listener("127.0.0.1:80", 5), listener("127.0.0.1:81", 7)], late);
        assert_eq!(after.iter().map(|known| known.since).collect::<Vec<_>>(), [early, late]);
    }

    #[tokio::test]
    async fn whoever_follows_is_told_what_begins_and_what_ends() {
        let ports = Arc::new(Ports::default());
        let (out, mut told) = mpsc::channel(4);
        tokio::spawn(Arc::clone(&ports).follow(out, ports.room().unwrap()));
        told.recv().await.unwrap().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = u32::from(server.local_addr().unwrap().port());
        let mut until = async |there: bool| loop {
            let list = told.recv().await.unwrap().unwrap();
            let found = list.items.into_iter().find(|item| item.port == port);
            if found.is_some() == there {
                return found;
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), until(true)).await.unwrap().unwrap();
        assert_eq!((found.pid, found.address.as_str()), (std::process::id(), "127.0.0.1"));
        drop(server);
        tokio::time::timeout(Duration::from_secs(20), until(false)).await.unwrap();
    }

    #[tokio::test]
    async fn followers_are_counted_and_given_back() {
        let ports = Arc::new(Ports::default());
        let room: Vec<_> = (0..FOLLOWERS).map(|_| ports.room().unwrap()).collect();
        assert_eq!(ports.room().unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(room);
        let (out, told) = mpsc::channel(4);
        let following = tokio::spawn(Arc::clone(&ports).follow(out, ports.room().unwrap()));
        drop(told);
        tokio::time::timeout(Duration::from_secs(20), following).await.unwrap().unwrap();
        assert_eq!(ports.room.available_permits(), FOLLOWERS);
    }
}
