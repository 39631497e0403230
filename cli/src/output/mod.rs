//! What is shown: results on standard output, everything else on standard error.

pub mod duration;
pub mod format;
pub mod json;
pub mod ports;
pub mod pull;
pub mod table;
pub mod text;
pub mod usage;

use std::{
    env,
    io::{self, Write as _},
};

use console::style;

use crate::{args::Global, error::EXIT_PIPE, tty};

/// Colour only on terminals, never with NO_COLOR or a dumb terminal.
pub fn init(_global: &Global) {
    let refused = env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || env::var_os("TERM").is_some_and(|t| t == "dumb");
    if refused {
        console::set_colors_enabled(false);
        console::set_colors_enabled_stderr(false);
    }
}

/// Writes a result; leaves quietly when nobody reads any more.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => tty::exit(EXIT_PIPE),
        Err(e) => {
            stderr_line(&format!("error: cannot write to standard output: {e}"));
            tty::exit(1)
        }
        Ok(()) => {}
    }
}

pub fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// A line for people beside the result. A closed standard error is no reason to fail.
pub fn stderr_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub fn note(text: &str) {
    stderr_line(text);
}

pub fn warning(text: &str) {
    stderr_line(&format!("{} {}", style("warning:").for_stderr().yellow().bold(), text::one_line(text)));
}

pub fn error_line(label: &str, text: &str) {
    stderr_line(&format!("{} {text}", style(label).for_stderr().red().bold()));
}

pub fn hint_line(label: &str, text: &str) {
    stderr_line(&format!("{} {text}", style(label).for_stderr().cyan().bold()));
}
