//! When a workspace was last used. It moves with every command and terminal, but is written at most once in a while.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{clock, core::Core, names::Target, store::workspaces};

/// What is written is at most this much behind.
const INTERVAL: Duration = Duration::from_secs(60);

/// When each workspace's use was last written; those of the last interval only.
#[derive(Default)]
pub struct Activity(Mutex<HashMap<String, Instant>>);

impl Activity {
    fn is_due(&self, uid: &str, now: Instant) -> bool {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, at| now.duration_since(*at) < INTERVAL);
        if written.contains_key(uid) {
            return false;
        }
        written.insert(uid.to_owned(), now);
        true
    }
}

/// Takes note that the workspace is used now. Nobody waits for it to be written.
pub fn note(core: &Arc<Core>, uid: &str) {
    if !core.activity.is_due(uid, Instant::now()) {
        return;
    }
    let (inner, target) = (core.clone(), Target::Uid(uid.to_owned()));
    core.tasks.spawn(async move {
        let written = inner.store.write(move |tx| {
            let Some(mut ws) = workspaces::find(tx, &target)? else { return Ok(()) };
            let before = ws.status.last_activity_at.take();
            ws.status.last_activity_at = Some(clock::later(clock::now(), before.as_ref()));
            workspaces::save(tx, &mut ws)
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "could not note that a workspace is used");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_an_interval_and_no_trace_of_the_idle() {
        let (activity, now) = (Activity::default(), Instant::now());
        assert!(activity.is_due("a", now));
        assert!(!activity.is_due("a", now + INTERVAL / 2));
        assert!(activity.is_due("b", now + INTERVAL));
        assert!(activity.is_due("a", now + INTERVAL));
        assert!(activity.is_due("b", now + INTERVAL * 3));
        let written = activity.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(written.len(), 1, "a has not been used since");
    }
}
