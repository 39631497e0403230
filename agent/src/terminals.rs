//! The terminals of the sandbox, in the order of their creation.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cordium_proto::v1::TerminalSize;

use crate::environment::Environment;
use crate::identity::{Identity, Who};
use crate::spawn::{Launch, Role, SpawnError, Streams, spawn};
use crate::state::State;
use crate::terminal::Terminal;

pub const MAX_TERMINALS: usize = 150;

#[derive(Default)]
pub struct Terminals {
    open: Mutex<BTreeMap<u64, Arc<Terminal>>>,
    counter: AtomicU64,
}

#[derive(Debug, thiserror::Error)]
pub enum TerminalError {
    #[error("{MAX_TERMINALS} terminals are open; close one first")]
    TooMany,
    #[error("the image has no shell (looked for bash, zsh and sh)")]
    NoShell,
    #[error("the shell could not be started: {0}")]
    Spawn(#[from] SpawnError),
    #[error("the shell was started without a terminal")]
    NoTerminal,
}

impl Terminals {
    pub fn create(
        state: &Arc<State>,
        identity: &Identity,
        size: TerminalSize,
        who: Who,
    ) -> Result<String, TerminalError> {
        let terminals = &state.terminals;
        // Held until the terminal is in the list, so that the limit is exact.
        let mut open = terminals.open();
        if open.len() >= MAX_TERMINALS {
            return Err(TerminalError::TooMany);
        }
        let shell = identity.user.shell.as_ref().ok_or(TerminalError::NoShell)?;
        let home = identity.home(who);
        let launch = Launch {
            argv: vec![shell.to_string_lossy().into_owned()],
            environment: environment(identity.environment(who)),
            working_dir: if home.is_dir() { home.to_path_buf() } else { "/".into() },
            credentials: identity.credentials(who),
            role: Role::Program,
        };
        let spawned = spawn(&state.reaper, &launch, Streams::Pty(size))?;
        let order = terminals.next_key();
        let id = format!("{order}-{:08x}", random() as u32);
        let (terminal, output) = Terminal::new(id.clone(), spawned, size).ok_or(TerminalError::NoTerminal)?;
        open.insert(order, Arc::clone(&terminal));
        drop(open);
        let state = Arc::clone(state);
        tokio::spawn(async move {
            terminal.pump(output).await;
            state.terminals.open().remove(&order);
        });
        Ok(id)
    }

    pub fn get(&self, id: &str) -> Option<Arc<Terminal>> {
        self.open().values().find(|terminal| terminal.id == id).cloned()
    }

    pub fn list(&self) -> Vec<Arc<Terminal>> {
        self.open().values().cloned().collect()
    }

    /// A number that was not given before; also keys listeners.
    pub fn next_key(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Terminal>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn environment(mut environment: Environment) -> Environment {
    environment.set("TERM", "xterm-256color");
    environment.set("COLORTERM", "truecolor");
    environment.set_default("LANG", "C.UTF-8");
    let directories: Vec<String> =
        environment.get("PATH").unwrap_or_default().split(':').map(str::to_owned).collect();
    let is_there = |name: &&str| directories.iter().any(|directory| Path::new(directory).join(name).exists());
    if let Some(editor) = ["vim", "nano", "vi"].iter().find(|name| is_there(name)) {
        environment.set_default("EDITOR", editor);
        environment.set_default("VISUAL", editor);
    }
    environment
}

/// Not a secret: only keeps the ids of two runs apart.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
