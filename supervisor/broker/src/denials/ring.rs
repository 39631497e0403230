//! The newest denials of each workspace.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::owners::{ANSWER, Owners, Question, REFUSAL, Share};
use super::{Denial, Protocol, What, Why};
use crate::limiter::Limiter;
use crate::records::Account;

/// Denials kept of one workspace.
const KEPT: usize = 1000;

/// One workspace's.
pub(crate) struct Ring {
    workspace: String,
    kept: Mutex<VecDeque<Arc<Denial>>>,
    /// The newest number.
    newest: watch::Sender<u64>,
    log: Limiter,
    /// For the audit log.
    pub account: Arc<Account>,
    owners: Arc<Owners>,
    share: Share,
}

/// A denial whose program is being looked for.
pub(crate) struct Looked {
    denial: Denial,
    /// Keeps it, whether somebody waits or not.
    kept: JoinHandle<Arc<Denial>>,
}

impl Ring {
    pub(crate) fn new(workspace: String, account: Arc<Account>, owners: Arc<Owners>) -> Self {
        Self {
            workspace,
            kept: Mutex::default(),
            newest: watch::Sender::new(0),
            log: Limiter::new(),
            account,
            owners,
            share: Share::new(),
        }
    }

    /// Keeps a denial. For one of which nobody asks whose it is.
    pub(crate) fn add(&self, what: &What<'_>, why: Why) -> Arc<Denial> {
        self.admit(Denial::new(&self.workspace, what, why))
    }

    /// Finds out whose connection it is, for a few milliseconds, and keeps the denial then or when the answer comes. The connection
    /// must not be refused before this returns.
    pub(crate) async fn deny(self: &Arc<Self>, what: &What<'_>, why: Why) -> Arc<Denial> {
        match self.look(what, why) {
            Ok(looked) => Self::wait(looked).await,
            Err(denial) => denial,
        }
    }

    /// The first half of [`Self::deny`]: a denial that was kept at once, or one to [wait](Self::wait) for, which is kept all the same.
    pub(crate) fn look(self: &Arc<Self>, what: &What<'_>, why: Why) -> Result<Looked, Arc<Denial>> {
        let denial = Denial::new(&self.workspace, what, why);
        let asked = what.client.and_then(|client| {
            let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
            let question = Question {
                id: 0,
                workspace: self.workspace.clone(),
                udp: what.protocol != Protocol::Tcp,
                local: canonical(client),
                remote: what.destination.map(canonical),
            };
            self.share.ask(&self.owners, question)
        });
        let Some(answer) = asked else { return Err(self.admit(denial)) };
        let (ring, mut late) = (Arc::clone(self), denial.clone());
        let kept = tokio::spawn(async move {
            let owner = timeout(ANSWER, answer).await.ok().and_then(Result::ok);
            late.owner = owner.filter(|owner| owner.pid > 0);
            ring.admit(late)
        });
        Ok(Looked { denial, kept })
    }

    /// For the answer, or for as long as a refusal may take.
    pub(crate) async fn wait(looked: Looked) -> Arc<Denial> {
        match timeout(REFUSAL, looked.kept).await {
            Ok(Ok(denial)) => denial,
            _ => Arc::new(looked.denial),
        }
    }

    /// Keeps a denial, and logs it unless there are too many.
    fn admit(&self, denial: Denial) -> Arc<Denial> {
        if let Some(suppressed) = self.log.admit() {
            let Denial { workspace, names, address, port, protocol, rule, reason, owner, .. } = &denial;
            let destination = match (address, port) {
                (Some(address), Some(port)) => SocketAddr::new(*address, *port).to_string(),
                _ => "none".to_owned(),
            };
            let (pid, program) = owner.as_ref().map_or((0, ""), |owner| (owner.pid, owner.program.as_str()));
            warn!(
                workspace,
                ?names,
                destination,
                ?protocol,
                rule,
                reason,
                pid,
                ?program,
                suppressed,
                "egress denied"
            );
        }
        self.keep(denial, SystemTime::now())
    }

    fn keep(&self, mut denial: Denial, now: SystemTime) -> Arc<Denial> {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        denial.time_millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // A broker that starts anew goes on with higher numbers.
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        denial.number = micros.max(kept.back().map_or(0, |last| last.number) + 1);
        let denial = Arc::new(denial);
        kept.push_back(Arc::clone(&denial));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        drop(kept);
        self.newest.send_replace(denial.number);
        self.account.denied(&denial);
        denial
    }

    /// Those with a higher number than `after`, the oldest first.
    pub(crate) fn after(&self, after: u64) -> Vec<Arc<Denial>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let start = kept.partition_point(|denial| denial.number <= after);
        kept.range(start..).cloned().collect()
    }

    /// Changes with each denial.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// The rings of the workspaces that are registered.
#[derive(Default)]
pub(crate) struct Rings(Mutex<HashMap<String, Arc<Ring>>>);

impl Rings {
    pub(crate) fn open(&self, workspace: &str, account: Arc<Account>, owners: Arc<Owners>) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(workspace.to_owned(), account, owners));
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rings.insert(workspace.to_owned(), Arc::clone(&ring));
        ring
    }

    pub(crate) fn find(&self, workspace: &str) -> Option<Arc<Ring>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(workspace).cloned()
    }

    /// Forgets this ring, but not one that a later registration has opened.
    pub(crate) fn close(&self, ring: &Arc<Ring>) {
        let mut rings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rings.get(&ring.workspace).is_some_and(|found| Arc::ptr_eq(found, ring)) {
            rings.remove(&ring.workspace);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::super::Protocol;
    use super::*;

    fn account() -> Arc<Account> {
        Arc::new(Account::new("w".into(), "r".into(), Arc::default()))
    }

    fn denial(rule: &str) -> Denial {
        let what =
            What { names: &[], destination: None, client: None, protocol: Protocol::Tcp, request: None };
        Denial::new("w", &what, Why { rule: rule.to_owned(), reason: "because", next: "do" })
    }

    #[test]
    fn the_newest_are_kept_in_order_and_found_by_number() {
        let ring = Ring::new("w".into(), account(), Arc::default());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut seen = ring.newest();
        for number in 0..KEPT + 5 {
            // The clock stands still, then goes back.
            let at = if number > KEPT { now - Duration::from_secs(60) } else { now };
            ring.keep(denial(&number.to_string()), at);
        }
        let all = ring.after(0);
        assert_eq!(all.len(), KEPT);
        assert_eq!((all[0].rule.as_str(), all[KEPT - 1].rule.as_str()), ("5", "1004"));
        assert!(all.is_sorted_by(|a, b| a.number < b.number));
        assert_eq!(all[0].time_millis, 1_000_000_000);
        assert_eq!(ring.after(all[KEPT - 3].number), all[KEPT - 2..]);
        assert!(ring.after(all[KEPT - 1].number).is_empty());
        assert!(seen.has_changed().unwrap() && *seen.borrow_and_update() == all[KEPT - 1].number);
    }

    #[test]
    fn a_later_registration_keeps_its_ring() {
        let rings = Rings::default();
        let open = || rings.open("w", account(), Arc::default());
        let (old, new) = (open(), open());
        rings.close(&old);
        assert!(Arc::ptr_eq(&rings.find("w").unwrap(), &new));
        rings.close(&new);
        assert!(rings.find("w").is_none());
    }
}
