//! How a pull tells what it is doing. Several waiters may listen to one download.

use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer's diff id; none for the image as a whole.
    pub layer: Option<String>,
    pub step: Step,
    /// Bytes of the (compressed) layer so far, or layers so far for the image as a whole.
    pub done: u64,
    pub total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reference is being resolved to a manifest.
    Resolving,
    /// The layer waits for a free slot.
    Waiting,
    /// The layer is being fetched and unpacked.
    Fetching,
    /// The layer is in the store, whether fetched now or earlier.
    Ready,
}

pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// A sink for callers that do not show progress.
pub fn no_progress() -> ProgressSink {
    Arc::new(|_| {})
}

/// Fans one download's progress out to everyone who waits for it.
#[derive(Default)]
pub(crate) struct ProgressHub {
    sinks: Mutex<Vec<ProgressSink>>,
}

impl ProgressHub {
    pub(crate) fn add(&self, sink: ProgressSink) {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    pub(crate) fn send(&self, progress: Progress) {
        let sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for sink in sinks {
            sink(progress.clone());
        }
    }

    pub(crate) fn as_sink(self: &Arc<Self>) -> ProgressSink {
        let hub = Arc::clone(self);
        Arc::new(move |progress| hub.send(progress))
    }
}
