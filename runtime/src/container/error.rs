//! What can fail, one variant per step.

use std::{io, path::PathBuf};

use libcontainer::error::LibcontainerError;

use super::seccomp::SeccompError;

#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("container id {0:?} is not 1 to 128 letters, digits and _ + - . (and not . or ..)")]
    Id(String),
    #[error("container {0:?} exists already")]
    Exists(String),
    #[error("container {0:?} does not exist")]
    Unknown(String),
    #[error("container {id:?} is {status}; {action} needs it to be {wanted}")]
    Status { id: String, status: String, action: &'static str, wanted: &'static str },
    #[error("preparing the state directory {path}: {source}", path = path.display())]
    StateDir { path: PathBuf, source: io::Error },
    #[error("reading the state of container {id:?}: {source}")]
    State { id: String, source: LibcontainerError },
    #[error("reading {path}: {reason}", path = path.display())]
    Config { path: PathBuf, reason: String },
    #[error("{path}: {reason}", path = path.display())]
    Unsupported { path: PathBuf, reason: String },
    #[error("linux.seccomp: {0}")]
    Seccomp(#[from] SeccompError),
    #[error("creating container {id:?}: {reason}")]
    Create { id: String, reason: String },
    #[error("starting container {id:?}: {reason}")]
    Start { id: String, reason: String },
    #[error("sending {signal} to container {id:?}: {source}")]
    Kill { id: String, signal: String, source: io::Error },
    #[error("{action} of container {id:?}: {reason}")]
    Act { id: String, action: &'static str, reason: String },
    #[error("running a process in container {id:?}: {step}: {reason}")]
    Exec { id: String, step: String, reason: String },
    #[error("writing the pid file {path}: {source}", path = path.display())]
    PidFile { path: PathBuf, source: io::Error },
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in std::iter::successors(Some(error), |error| error.source()) {
        let text = cause.to_string();
        // Many wrappers repeat their cause.
        if parts.last().is_none_or(|last| !last.ends_with(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}
