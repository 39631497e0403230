//! What the agent tells the supervisor: kept from the start, replayed to every watcher, then followed.

use std::sync::{Arc, Mutex, PoisonError};

use cordium_proto::v1::agent_event::{Created, Event, Finished, Preparing, Running};
use cordium_proto::v1::{AgentEvent, Failure};
use futures::stream::{self, Stream};
use tokio::sync::watch;

use crate::logs::Logs;

/// Of steps and warnings; what decides the run is always kept.
const MAX_NOTES: usize = 2000;

pub struct Events {
    all: Mutex<Vec<AgentEvent>>,
    count: watch::Sender<usize>,
    logs: Arc<Logs>,
}

impl Events {
    pub fn new(logs: Arc<Logs>) -> Self {
        Self { all: Mutex::default(), count: watch::Sender::new(0), logs }
    }

    pub fn preparing(&self) {
        self.push(Event::Preparing(Preparing {}));
    }

    pub fn created(&self) {
        self.push(Event::Created(Created {}));
    }

    pub fn running(&self, user: &str, uid: u32, home: &str) {
        self.push(Event::Running(Running { user: user.into(), uid, home: home.into() }));
    }

    pub fn finished(&self) {
        self.push(Event::Finished(Finished {}));
    }

    pub fn failure(&self, failure: Failure) {
        tracing::error!("{}", failure.message);
        self.push(Event::Failure(failure));
    }

    pub fn warning(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::warn!("{text}");
        self.push(Event::Warning(text));
    }

    pub fn step(&self, text: impl Into<String>) {
        self.push(Event::Step(text.into()));
    }

    fn push(&self, event: Event) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let note = matches!(event, Event::Warning(_) | Event::Step(_));
        if note && all.len() >= MAX_NOTES {
            return;
        }
        all.push(AgentEvent { log_seq: self.logs.last_seq(), event: Some(event) });
        let count = all.len();
        drop(all);
        self.count.send_replace(count);
    }

    pub fn watch(self: &Arc<Self>) -> impl Stream<Item = AgentEvent> + Send + use<> {
        let position = (Arc::clone(self), self.count.subscribe(), 0);
        stream::unfold(position, |(events, mut count, next)| async move {
            count.wait_for(|count| *count > next).await.ok()?;
            let event = events.all.lock().unwrap_or_else(PoisonError::into_inner).get(next).cloned()?;
            Some((event, (events, count, next + 1)))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use futures::StreamExt as _;

    #[tokio::test]
    async fn every_watcher_sees_everything_in_order() {
        let events = Arc::new(Events::new(Arc::new(Logs::new())));
        events.preparing();
        let mut early = Box::pin(events.watch());
        assert!(matches!(early.next().await.unwrap().event, Some(Event::Preparing(_))));
        for _ in 0..MAX_NOTES + 10 {
            events.step("x");
        }
        events.running("u", 1, "/");
        let late: Vec<_> = events.watch().take(MAX_NOTES + 1).collect().await;
        assert!(matches!(late.last().unwrap().event, Some(Event::Running(_))));
        assert!(matches!(early.next().await.unwrap().event, Some(Event::Step(_))));
    }

    #[tokio::test]
    async fn an_event_says_how_far_the_log_was() {
        let logs = Arc::new(Logs::new());
        let events = Arc::new(Events::new(Arc::clone(&logs)));
        events.preparing();
        logs.system("one");
        logs.system("two");
        events.running("u", 1, "/");
        logs.system("three");
        let all: Vec<_> = events.watch().take(2).map(|event| event.log_seq).collect().await;
        assert_eq!(all, [0, 2]);
    }
}
