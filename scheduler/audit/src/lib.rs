//! The audit log: who did what, as lines of JSON of which each names the hash of the one before.
//!
//! ```text
//!  audit-00000000000000000001.jsonl          audit-00000000000000000813.jsonl
//!  ┌─────────────┐   ┌─────────────┐         ┌──────────────┐
//!  │ seq 1       │   │ seq 2       │         │ seq 813      │
//!  │ prev 000…   │◀──│ prev = hash │◀── … ◀──│ prev = hash  │◀── head: kept elsewhere
//!  │ hash        │   │ hash        │         │ hash         │
//!  └─────────────┘   └─────────────┘         └──────────────┘
//! ```
//! A chain alone does not tell that its end was cut off, or that all of it was written anew. So the newest record that is
//! safely on disk, the *head*, is kept in another place: the owner of the [`Log`] stores what [`Log::sync`] returns, and a
//! person can keep a head off the machine. The log is bounded: the oldest files go, and the *anchor*, kept along with
//! the head, says where the chain begins since.
//!
//! A line is hashed as it stands, byte by byte, so there is no second way to write the same record.

mod chain;
mod error;
mod files;
mod log;
mod read;
mod record;
mod verify;

pub use chain::{Hash, Head, Kept, ParseHeadError};
pub use error::AuditError;
pub use log::{Limits, Log, Syncing};
pub use read::read;
pub use record::{Entry, Record};
pub use verify::{Finding, Report, Touch, verify};
