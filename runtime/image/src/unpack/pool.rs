//! Several writers within one layer: creating files is what takes the time. Jobs of one path go to one
//! writer, in order, so that a later entry of the same name wins as the archive says.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::leaf::{self, Job};
use super::protocol::Fault;

const QUEUE: usize = 32;

pub(crate) struct Pool {
    queues: Vec<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    idle: Condvar,
}

#[derive(Default)]
struct State {
    pending: usize,
    fault: Option<Fault>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One job less when dropped, also by a panic: nobody may wait for it for ever.
struct Pending<'a>(&'a Shared);

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.pending -= 1;
        if std::thread::panicking() {
            state.fault.get_or_insert(Fault::Confine { reason: "a writer panicked".into() });
        }
        if state.pending == 0 {
            self.0.idle.notify_all();
        }
    }
}

impl Pool {
    pub(crate) fn new(writers: usize) -> Result<Self, Fault> {
        let shared = Arc::new(Shared::default());
        let (mut queues, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..writers {
            let (sender, receiver) = sync_channel::<Job>(QUEUE);
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("writer".into()).spawn(move || {
                for job in receiver {
                    let _pending = Pending(&shared);
                    let skip = shared.lock().fault.is_some();
                    let result = if skip { Ok(()) } else { leaf::create(&job) };
                    drop(job);
                    if let Err(fault) = result {
                        shared.lock().fault.get_or_insert(fault);
                    }
                }
            });
            threads.push(thread.map_err(|e| Fault::Confine { reason: format!("starting a writer: {e}") })?);
            queues.push(sender);
        }
        Ok(Self { queues, threads, shared })
    }

    pub(crate) fn submit(&self, job: Job) -> Result<(), Fault> {
        {
            let mut state = self.shared.lock();
            if let Some(fault) = state.fault.clone() {
                return Err(fault);
            }
            state.pending += 1;
        }
        let mut hasher = DefaultHasher::new();
        job.path.hash(&mut hasher);
        let index = (hasher.finish() % self.queues.len() as u64) as usize;
        self.queues[index].send(job).map_err(|_| Fault::Confine { reason: "a writer is gone".into() })
    }

    /// Waits until every job so far is done.
    pub(crate) fn barrier(&self) -> Result<(), Fault> {
        let mut state = self.shared.lock();
        while state.pending > 0 {
            state = self.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.fault.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn finish(self) -> Result<(), Fault> {
        let result = self.barrier();
        drop(self.queues);
        for thread in self.threads {
            if thread.join().is_err() {
                return Err(Fault::Confine { reason: "a writer panicked".into() });
            }
        }
        result
    }
}
