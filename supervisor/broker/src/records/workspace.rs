//! One run's account.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::windows::{Bounds, Merge, Told, Windows};
use super::{Happened, Journal, Record, Use};
use crate::denials::{Denial, Protocol};

/// 5 MB a day at worst.
const DENIALS: Bounds = Bounds { kinds: 64, burst: 64, refill: Duration::from_secs(10) };
/// By hosts of bindings, of which the spec has only so many: nothing is left out of what it can have in earnest.
const USES: Bounds = Bounds { kinds: 512, burst: 512, refill: Duration::from_secs(5) };
const LOOK: Duration = Duration::from_secs(5);
/// Requests that one record lists, and how long each may be.
const REQUESTS: usize = 5;
const REQUEST: usize = 150;

/// Denials are of one kind if these are the same.
type Refused = (Protocol, Option<String>, Option<IpAddr>, Option<u16>, Option<String>, String);
/// Binding and host.
type Bound = (String, String);

pub(crate) struct Account {
    workspace: String,
    run: String,
    journal: Arc<Journal>,
    denials: Mutex<Windows<Refused, Denial>>,
    uses: Mutex<Windows<Bound, Use>>,
    /// Nobody looks any more.
    ended: AtomicBool,
}

impl Merge for Denial {
    fn merge(&mut self, newer: Self) {
        *self = newer;
    }
}

impl Merge for Use {
    fn merge(&mut self, newer: Self) {
        self.more = self.more.saturating_add(newer.more);
        for request in newer.requests {
            if self.requests.contains(&request) {
                continue;
            }
            if self.requests.len() < REQUESTS {
                self.requests.push(request);
            } else {
                self.more = self.more.saturating_add(1);
            }
        }
    }
}

impl Account {
    pub(crate) fn new(workspace: String, run: String, journal: Arc<Journal>) -> Self {
        let now = Instant::now();
        let (denials, uses) = (Windows::new(DENIALS, now), Windows::new(USES, now));
        let (denials, uses) = (Mutex::new(denials), Mutex::new(uses));
        Self { workspace, run, journal, denials, uses, ended: AtomicBool::new(false) }
    }

    pub(crate) fn denied(&self, denial: &Denial) {
        let Denial { protocol, address, port, method, path, rule, .. } = denial;
        let request = method.as_ref().zip(path.as_ref()).map(|(method, path)| format!("{method} {path}"));
        let key = (*protocol, denial.names.first().cloned(), *address, *port, request, rule.clone());
        let mut windows = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        // In order: the lock is held until the journal has it.
        let told = windows.add(key, denial.clone(), Instant::now(), denial.time_millis);
        self.tell(told, Happened::Denied, Happened::DenialsLeftOut);
        drop(windows);
        // One whose program was looked for until after the end.
        if self.ended.load(Ordering::Acquire) {
            self.end();
        }
    }

    pub(crate) fn used(&self, credential: &str, secret: &str, host: &str, port: u16, request: &str) {
        let mut request = request.to_owned();
        if request.len() > REQUEST {
            request.truncate(request.floor_char_boundary(REQUEST));
            request.push('…');
        }
        let what = Use {
            credential: credential.to_owned(),
            secret: secret.to_owned(),
            host: host.to_owned(),
            port,
            requests: vec![request],
            more: 0,
        };
        let key = (credential.to_owned(), format!("{host}:{port}"));
        let mut windows = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let told = windows.add(key, what, Instant::now(), millis());
        self.tell(told, Happened::Used, Happened::UsesLeftOut);
    }

    /// Tells what is due, for as long as the workspace is there.
    pub(crate) async fn serve(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(Windows::due, Windows::due);
        }
    }

    /// Tells what is left.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.look(Windows::end, Windows::end);
    }

    fn look(
        &self,
        denials: impl Fn(&mut Windows<Refused, Denial>, Instant) -> Vec<Told<Denial>>,
        uses: impl Fn(&mut Windows<Bound, Use>, Instant) -> Vec<Told<Use>>,
    ) {
        let now = Instant::now();
        let mut windows = self.denials.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(denials(&mut windows, now), Happened::Denied, Happened::DenialsLeftOut);
        drop(windows);
        let mut windows = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(uses(&mut windows, now), Happened::Used, Happened::UsesLeftOut);
    }

    fn tell<T>(
        &self,
        told: impl IntoIterator<Item = Told<T>>,
        what: impl Fn(T) -> Happened,
        left_out: Happened,
    ) {
        for told in told {
            self.journal.add(Record {
                epoch: 0,
                number: 0,
                before: 0,
                count: told.count,
                workspace: self.workspace.clone(),
                run: self.run.clone(),
                first_millis: told.first_millis,
                last_millis: told.last_millis,
                what: told.what.map_or_else(|| left_out.clone(), &what),
            });
        }
    }
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn account() -> (Account, Arc<Journal>) {
        let journal = Arc::new(Journal::default());
        (Account::new("w".into(), "r".into(), Arc::clone(&journal)), journal)
    }

    #[test]
    fn a_busy_client_is_two_records_with_the_requests_that_differ() {
        let (account, journal) = account();
        for n in 0..1000 {
            let request = format!("GET /{}{}", n % 8, "x".repeat(if n % 8 == 1 { 4000 } else { 0 }));
            account.used("api", "token", "a.example", 443, &request);
        }
        account.end();
        let records = journal.after(0, 0, usize::MAX);
        let [first, rest] = &records[..] else { panic!("{records:?}") };
        let Happened::Used(first_use) = &first.what else { panic!("{first:?}") };
        assert_eq!((first.count, first_use.requests.as_slice()), (1, &["GET /0".to_owned()][..]));
        let Happened::Used(used) = &rest.what else { panic!("{rest:?}") };
        assert_eq!((rest.count, rest.before, used.requests.len()), (999, 1, REQUESTS));
        assert!(used.more > 0 && used.requests[0].len() <= REQUEST + 3, "{used:?}");
        assert_eq!((rest.workspace.as_str(), rest.run.as_str(), used.secret.as_str()), ("w", "r", "token"));
    }

    #[test]
    fn credentials_are_told_apart_by_binding_host_and_port() {
        let (account, journal) = account();
        for (credential, host, port) in [
            ("a", "a.example", 443),
            ("b", "a.example", 443),
            ("a", "b.example", 443),
            ("a", "a.example", 444),
        ] {
            account.used(credential, "token", host, port, "GET /");
        }
        assert_eq!(journal.after(0, 0, usize::MAX).len(), 4);
    }
}
