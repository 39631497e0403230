//! Who is behind a connection that is being refused: a question to the supervisor, which asks the workspace's agent.
//!
//! ```text
//!  refusal ──▶ question ──▶ supervisor ──▶ agent: whose socket is it? ──▶ answer
//!     └─ at most 5 ms ─▶ reset or 403          └─ at most 250 ms ─▶ the denial is told, with or without it
//! ```
//!
//! The socket is gone as soon as the connection is reset, so the question comes first. A workspace that is refused much is not
//! asked about each, and nobody waits where no supervisor listens.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// A refusal waits for so long.
pub(super) const REFUSAL: Duration = Duration::from_millis(5);
/// A denial is told after this long, whatever is known by then.
pub(super) const ANSWER: Duration = Duration::from_millis(250);
/// Questions that wait for the supervisor to take them, and for an answer.
const QUEUE: usize = 64;
const WAITING: usize = 256;
/// Of one workspace: so many at once, then five a second.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_millis(200);

/// The process that asked, as the workspace's agent says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Inside.
    pub pid: u32,
    /// The executable.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// The task of the workspace's spec to which it belongs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task: String,
}

/// Whose socket is this?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Question {
    pub id: u64,
    pub workspace: String,
    pub udp: bool,
    /// As the workspace sees them.
    pub local: SocketAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub id: u64,
    pub owner: Owner,
}

/// The questions of all workspaces.
#[derive(Default)]
pub(crate) struct Owners(Mutex<State>);

#[derive(Default)]
struct State {
    /// To the supervisor that came last.
    out: Option<mpsc::Sender<Question>>,
    waiting: HashMap<u64, oneshot::Sender<Owner>>,
    next: u64,
}

impl Owners {
    /// A supervisor that answers from now on, in place of one that did before.
    pub(super) fn listen(&self) -> mpsc::Receiver<Question> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.out = Some(sender);
        state.waiting.clear();
        receiver
    }

    pub(super) fn answer(&self, Answer { id, owner }: Answer) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = state.waiting.remove(&id) {
            // Who asked may have given up.
            let _ = waiting.send(owner);
        }
    }

    /// None where nobody can answer now.
    fn ask(&self, question: Question) -> Option<oneshot::Receiver<Owner>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting.len() >= WAITING {
            state.waiting.retain(|_, waiting| !waiting.is_closed());
            if state.waiting.len() >= WAITING {
                return None;
            }
        }
        state.next += 1;
        let id = state.next;
        let (sender, receiver) = oneshot::channel();
        state.out.as_ref()?.try_send(Question { id, ..question }).ok()?;
        state.waiting.insert(id, sender);
        Some(receiver)
    }
}

/// One workspace's share of the questions.
pub(super) struct Share(Mutex<(u32, Instant)>);

impl Share {
    pub(super) fn new() -> Self {
        Self(Mutex::new((BURST, Instant::now())))
    }

    pub(super) fn ask(&self, owners: &Owners, question: Question) -> Option<oneshot::Receiver<Owner>> {
        self.admit(Instant::now()).then(|| owners.ask(question)).flatten()
    }

    fn admit(&self, now: Instant) -> bool {
        let mut share = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, refilled) = &mut *share;
        let more = now.saturating_duration_since(*refilled).as_millis() / REFILL.as_millis();
        if more > 0 {
            *tokens = tokens.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(BURST);
            *refilled = now;
        }
        let admitted = *tokens > 0;
        *tokens = tokens.saturating_sub(1);
        admitted
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn question() -> Question {
        let local = "10.0.0.1:5".parse().unwrap();
        Question { id: 0, workspace: "w".into(), udp: false, local, remote: None }
    }

    #[tokio::test]
    async fn the_supervisor_that_came_last_is_asked() {
        let owners = Owners::default();
        assert!(owners.ask(question()).is_none());
        let _old = owners.listen();
        let mut new = owners.listen();
        let waiting = owners.ask(question()).unwrap();
        let id = new.recv().await.unwrap().id;
        let owner = Owner { pid: 7, ..Owner::default() };
        owners.answer(Answer { id: id + 1, owner: Owner::default() });
        owners.answer(Answer { id, owner: owner.clone() });
        assert_eq!(waiting.await.unwrap(), owner);
        drop(new);
        assert!(owners.ask(question()).is_none());
    }

    #[test]
    fn questions_are_bounded() {
        let owners = Owners::default();
        let mut asked = owners.listen();
        let mut kept = Vec::new();
        for _ in 0..WAITING {
            kept.push(owners.ask(question()).unwrap());
            asked.try_recv().unwrap();
        }
        assert!(owners.ask(question()).is_none());
        kept.pop();
        assert!(owners.ask(question()).is_some());
        let share = Share::new();
        let start = Instant::now();
        assert_eq!((0..1000).filter(|_| share.admit(start)).count(), 20);
        assert_eq!((0..1000).filter(|_| share.admit(start + Duration::from_secs(1))).count(), 5);
    }
}
