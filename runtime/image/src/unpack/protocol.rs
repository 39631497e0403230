//! What the two sides say to each other. Down the child's standard input, a Unix socket: the length of a
//! [`Job`], the job as JSON with a directory descriptor attached, then for an unpack job the layer's bytes
//! up to the end of the stream. Up its standard output: one JSON line per [`Reply`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::give::Shift;
use crate::config::{Limits, ViewMethod};
use crate::error::LayerError;

pub(crate) const MAX_JOB: usize = 64 << 10;
pub(crate) const MAX_REPLY: u64 = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Apply the layer that follows into a new directory `fs` of the given directory.
    Unpack { limits: Limits, ids: u32 },
    /// Remove everything in the given directory.
    Empty,
    /// Give everything in the given directory to another range.
    Give { shift: Shift },
    /// Make a new directory `fs` of the given directory that shows the published `layers`, bottom first, to the ids that
    /// follow home's: merged, if they are the whole of an image. By path, because a mount can only be made of what this side has
    /// opened.
    View { layers: Vec<PathBuf>, method: ViewMethod, whole: bool },
    /// Find out what the file system of the given directory, which is at `path`, and the kernel can do for views.
    Probe { path: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The child has its namespaces and waits for its id maps.
    Unshared,
    Done(Report),
    Failed(Fault),
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub diff_id: String,
    pub entries: u64,
    pub bytes: u64,
    pub skipped_devices: u64,
    pub hides_all_below: bool,
    /// Of a view: files that are redirects.
    pub redirects: u64,
    pub can: Can,
    pub warnings: Vec<String>,
}

/// What a probe found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Can {
    pub reflink: bool,
    pub redirect: bool,
    /// Why not, for what cannot be done.
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Fault {
    Entry { entry: String, reason: String },
    Limit { what: String, limit: u64, entry: String },
    NoSpace { entry: String },
    Io { operation: String, entry: String, reason: String },
    Stream { reason: String },
    Confine { reason: String },
}

impl From<Fault> for LayerError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Entry { entry, reason } => Self::Entry { entry, reason },
            Fault::Limit { what, limit, entry } => Self::Limit { what, limit, entry },
            Fault::NoSpace { entry } => Self::NoSpace { entry },
            Fault::Io { operation, entry, reason } => Self::Io { operation, entry, reason },
            Fault::Stream { reason } => Self::Stream { reason },
            Fault::Confine { reason } => Self::Helper { step: "cannot confine itself", reason },
        }
    }
}

impl Fault {
    /// A failed system call on behalf of an entry.
    pub(crate) fn io(operation: &str, entry: &[u8], error: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        let entry = show(entry);
        match error {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace { entry },
            error => Self::Io { operation: operation.to_owned(), entry, reason: error.to_string() },
        }
    }

    pub(crate) fn entry(entry: &[u8], reason: impl Into<String>) -> Self {
        Self::Entry { entry: show(entry), reason: reason.into() }
    }
}

/// A path for people: bounded, and with nothing in it that could drive a terminal.
pub(crate) fn show(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path)
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    match text.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
