//! The one error of the command line: what went wrong, in a line, and the next step to take.

use std::fmt;

use cordium_proto::HINT_KEY;
use tonic::{Code, Status};

use crate::output::{self, text};

pub type CliResult<T = ()> = Result<T, CliError>;

/// The command could not be run in the workspace at all.
pub const EXIT_NOT_RUN: u8 = 125;
/// Interrupted by the user.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Whoever read our output went away.
pub const EXIT_PIPE: u8 = 141;

#[derive(Debug)]
pub struct CliError {
    message: String,
    hint: Option<String>,
    detail: Vec<String>,
    code: u8,
    status: Option<Code>,
}

impl CliError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, detail: Vec::new(), code: 1, status: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).code(2)
    }

    /// An error that has been told already, or needs no words: only the exit code is left.
    pub fn silent(code: u8) -> Self {
        Self::new("").code(code)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Lines that are shown below the message, such as the end of a log.
    pub fn detail(mut self, lines: impl IntoIterator<Item = String>) -> Self {
        self.detail.extend(lines);
        self
    }

    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    pub fn exit_code(&self) -> u8 {
        self.code
    }

    pub fn status(&self) -> Option<Code> {
        self.status
    }

    pub fn from_status(doing: &str, status: &Status) -> Self {
        let lost = matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Internal)
            && (status.message().contains("transport error")
                || status.message().contains("h2 protocol error")
                || status.message().contains("error reading a body"));
        let message = if lost {
            format!("cannot {doing}: the connection to the supervisor was lost")
        } else if status.message().is_empty() {
            format!("cannot {doing}: {}", status.code().description())
        } else {
            format!("cannot {doing}: {}", status.message())
        };
        let told = status.metadata().get(HINT_KEY).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let hint =
            told.filter(|h| !h.is_empty()).unwrap_or_else(|| local_hint(status.code(), lost).to_owned());
        let mut error = Self::new(message).hint(hint);
        error.status = Some(status.code());
        error
    }

    pub fn print(&self) {
        if !self.message.is_empty() {
            output::error_line("error:", &text::one_line(&self.message));
        }
        for line in &self.detail {
            output::stderr_line(&format!("  | {}", text::clean_line(line)));
        }
        if let Some(hint) = &self.hint {
            output::hint_line("hint:", &text::one_line(hint));
        }
    }
}

fn local_hint(code: Code, lost: bool) -> &'static str {
    match code {
        _ if lost => {
            "see whether it still runs with `cordium status`; its log is supervisor.log in the state directory"
        }
        Code::NotFound => "`cordium get workspaces` (spaces, templates, secrets) lists what there is",
        Code::AlreadyExists => "choose another name, or change the existing one with `cordium apply -f FILE`",
        Code::InvalidArgument => "`cordium schema workspace` prints the fields and values that are allowed",
        Code::FailedPrecondition => {
            "`cordium get workspaces` shows its state; `cordium start NAME` starts it"
        }
        Code::ResourceExhausted => {
            "free space with `cordium image prune`, stop a workspace, or ask for less with --cpu, --memory, --storage"
        }
        Code::PermissionDenied | Code::Unauthenticated => "run this as the user that the supervisor runs as",
        Code::Unimplemented => "the supervisor may be of another version: compare with `cordium version`",
        Code::Unavailable => "`cordium status` shows which node is gone; try again when it is back",
        Code::DeadlineExceeded => "try again; `cordium status` shows whether the node answers",
        _ => "the supervisor's log (supervisor.log in the state directory) says more",
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Says what was being done when a call failed.
pub trait Doing<T> {
    fn doing(self, what: impl AsRef<str>) -> CliResult<T>;
}

impl<T> Doing<T> for Result<T, Status> {
    fn doing(self, what: impl AsRef<str>) -> CliResult<T> {
        self.map_err(|status| CliError::from_status(what.as_ref(), &status))
    }
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, what: impl AsRef<str>) -> CliResult<T> {
        self.map_err(|e| CliError::new(format!("cannot {}: {e}", what.as_ref())))
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, what: impl AsRef<str>) -> CliResult<T> {
        self.map_err(|e| CliError::new(format!("cannot {}: {}", what.as_ref(), e.desc())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hint_of_the_server_wins() {
        let mut status = Status::not_found("workspace \"x\" does not exist");
        status.metadata_mut().insert(HINT_KEY, "look elsewhere".parse().unwrap());
        let error = CliError::from_status("start workspace x", &status);
        assert_eq!(error.message, "cannot start workspace x: workspace \"x\" does not exist");
        assert_eq!(error.hint.as_deref(), Some("look elsewhere"));
    }

    #[test]
    fn every_code_has_a_next_step() {
        for n in 1..=16 {
            let error = CliError::from_status("do it", &Status::new(Code::from_i32(n), ""));
            assert!(error.hint.is_some_and(|h| !h.is_empty()), "code {n}");
            assert!(error.message.len() > "cannot do it: ".len(), "code {n}");
        }
    }

    #[test]
    fn a_lost_connection_is_named() {
        let error = CliError::from_status("list", &Status::unavailable("transport error"));
        assert!(error.message.contains("connection to the supervisor was lost"));
    }
}
