//! One shell on a pseudo-terminal that outlives its clients.
//!
//! Listeners hold an offset into the scrollback, not a queue. The shell is slowed for one that falls behind,
//! but only briefly: then that listener loses what the scrollback drops, and nobody else waits for it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cordium_proto::v1::TerminalSize;
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Notify, watch};

use crate::process::end_session;
use crate::pty;
use crate::reaper::Process;
use crate::scrollback::{CAPACITY, Scrollback};
use crate::spawn::{Rest, Spawned};

const CHUNK: usize = 16 << 10;
const LAG: u64 = CAPACITY as u64 / 2;
const PATIENCE: Duration = Duration::from_secs(2);
const REMOVE_GRACE: Duration = Duration::from_secs(2);

/// What listeners wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Head {
    pub end: u64,
    pub size: TerminalSize,
    /// The shell's exit code once it has ended.
    pub closed: Option<i32>,
}

struct Position {
    offset: u64,
    /// It had its time; it is not waited for until it has caught up.
    given_up: bool,
}

pub struct Terminal {
    pub id: String,
    pub created_at: SystemTime,
    process: Process,
    master: OwnedFd,
    input: tokio::sync::Mutex<Sender>,
    scrollback: Mutex<Scrollback>,
    head: watch::Sender<Head>,
    listeners: Mutex<HashMap<u64, Position>>,
    progress: Notify,
}

impl Terminal {
    /// Takes over a shell that was started on a terminal; `None` if it was not.
    pub fn new(id: String, spawned: Spawned, size: TerminalSize) -> Option<(Arc<Self>, Receiver)> {
        let terminal = Self {
            id,
            created_at: SystemTime::now(),
            process: spawned.process,
            master: spawned.terminal?,
            input: tokio::sync::Mutex::new(spawned.stdin?),
            scrollback: Mutex::default(),
            head: watch::Sender::new(Head { size: pty::sane(size), ..Head::default() }),
            listeners: Mutex::default(),
            progress: Notify::new(),
        };
        Some((Arc::new(terminal), spawned.stdout))
    }

    /// Reads the terminal until its shell ends.
    pub async fn pump(&self, mut output: Receiver) {
        let mut buffer = vec![0; CHUNK];
        let mut open = true;
        let exit = loop {
            tokio::select! {
                count = output.read(&mut buffer), if open => match count {
                    Ok(0) | Err(_) => open = false,
                    Ok(count) => {
                        self.append(&buffer[..count]);
                        self.wait_for_listeners().await;
                    }
                },
                exit = self.process.wait() => break exit,
            }
        };
        let mut rest = Rest::of(&output);
        while let Some(count) = rest.read(&mut buffer) {
            self.append(&buffer[..count]);
        }
        self.head.send_modify(|head| head.closed = Some(exit.shell_code()));
    }

    fn append(&self, data: &[u8]) {
        let mut scrollback = self.scrollback();
        scrollback.push(data);
        let end = scrollback.end();
        drop(scrollback);
        self.head.send_modify(|head| head.end = end);
    }

    async fn wait_for_listeners(&self) {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let progress = self.progress.notified();
                if !self.someone_lags() {
                    return;
                }
                progress.await;
            }
        });
        if waited.await.is_err() {
            let end = self.head.borrow().end;
            for position in self.listeners().values_mut() {
                position.given_up |= position.offset + LAG < end;
            }
        }
    }

    fn someone_lags(&self) -> bool {
        let end = self.head.borrow().end;
        self.listeners().values().any(|position| !position.given_up && position.offset + LAG < end)
    }

    pub async fn write(&self, data: &[u8]) {
        // The shell may have ended in this moment; its listeners are told so.
        let _ = self.input.lock().await.write_all(data).await;
    }

    pub fn resize(&self, size: TerminalSize) {
        let size = pty::sane(size);
        if pty::resize(&self.master, size).is_ok() {
            self.head.send_if_modified(|head| std::mem::replace(&mut head.size, size) != size);
        }
    }

    pub fn size(&self) -> TerminalSize {
        self.head.borrow().size
    }

    /// Ends the shell and what it runs.
    pub async fn end(&self) {
        end_session(&self.process, &[Signal::SIGHUP, Signal::SIGTERM], REMOVE_GRACE).await;
    }

    pub fn listen(self: &Arc<Self>, key: u64) -> Listener {
        let offset = self.scrollback().start();
        self.listeners().insert(key, Position { offset, given_up: false });
        Listener { terminal: Arc::clone(self), head: self.head.subscribe(), key, offset, size: None }
    }

    fn scrollback(&self) -> MutexGuard<'_, Scrollback> {
        self.scrollback.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, HashMap<u64, Position>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a listener is told.
#[derive(Debug, PartialEq)]
pub enum Update {
    Size(TerminalSize),
    Data(Bytes),
    Closed(i32),
}

/// One reader of a terminal, from the oldest byte that is still there.
pub struct Listener {
    terminal: Arc<Terminal>,
    head: watch::Receiver<Head>,
    key: u64,
    offset: u64,
    size: Option<TerminalSize>,
}

impl Listener {
    /// The size comes first and whenever it changes; `Closed` is the last.
    pub async fn next(&mut self) -> Update {
        loop {
            let head = *self.head.borrow_and_update();
            if self.size != Some(head.size) {
                self.size = Some(head.size);
                return Update::Size(head.size);
            }
            if self.offset < head.end {
                return Update::Data(self.advance());
            }
            if let Some(code) = head.closed {
                return Update::Closed(code);
            }
            if self.head.changed().await.is_err() {
                return Update::Closed(-1);
            }
        }
    }

    fn advance(&mut self) -> Bytes {
        let (data, next) = self.terminal.scrollback().read(self.offset, CHUNK);
        self.offset = next;
        if let Some(position) = self.terminal.listeners().get_mut(&self.key) {
            position.offset = next;
            position.given_up &= next + LAG < self.head.borrow().end;
        }
        self.terminal.progress.notify_one();
        data
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.terminal.listeners().remove(&self.key);
        self.terminal.progress.notify_one();
    }
}
