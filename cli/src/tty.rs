//! The user's terminal: raw mode that is undone on every way out, and its size.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
};

use cordium_proto::v1::TerminalSize;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::{CliResult, Doing as _};

/// What the terminal was like before [`RawMode`]; taken back by whoever leaves first.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

pub fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Both ends of a conversation are a terminal.
pub fn is_interactive() -> bool {
    stdin_is_terminal() && std::io::stdout().is_terminal()
}

/// The size of the terminal on standard input, output or error, or 80×24.
pub fn size() -> TerminalSize {
    let found = tcgetwinsize(std::io::stdin())
        .or_else(|_| tcgetwinsize(std::io::stdout()))
        .or_else(|_| tcgetwinsize(std::io::stderr()))
        .ok()
        .filter(|w| w.ws_col > 0 && w.ws_row > 0);
    match found {
        Some(w) => TerminalSize { cols: w.ws_col.into(), rows: w.ws_row.into() },
        None => TerminalSize { cols: 80, rows: 24 },
    }
}

/// Raw mode on standard input for as long as this lives.
pub struct RawMode(());

impl RawMode {
    /// `None` when standard input is not a terminal: then there is nothing to switch.
    pub fn enter() -> CliResult<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(std::io::Error::from).doing("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        tcsetattr(&stdin, OptionalActions::Drain, &raw)
            .map_err(std::io::Error::from)
            .doing("switch the terminal to raw mode")?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

pub fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = saved {
        // Nothing can be done when the terminal is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &before);
    }
}

/// The only way to leave the process: the terminal is as it was, and what was written is out.
pub fn exit(code: u8) -> ! {
    restore();
    let _ = std::io::stdout().flush();
    std::process::exit(i32::from(code))
}
