//! What the audit log is to hold of a workspace's egress: what was refused, and which credentials were put on requests.
//!
//! ```text
//!  denial ──▶ windows of the workspace ──▶ journal of the node ──▶ whoever follows it (the supervisor, for a scheduler)
//!  use    ──▶   one record a minute of       the newest 16,384,
//!               a kind, so many at most      numbered
//! ```
//!
//! A workspace decides how much it is refused, so nothing here grows with that: what is too much is counted, and the count is
//! told. What nobody takes in time goes, and the numbers show how much that was.

mod journal;
mod windows;
mod workspace;

use serde::{Deserialize, Serialize};

pub(crate) use journal::Journal;
pub(crate) use workspace::Account;

use crate::denials::Denial;

/// Several things of one kind that happened in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When the broker that tells it began, in microseconds since 1970.
    pub epoch: u64,
    /// 1 for the first of an epoch; rises by one.
    pub number: u64,
    /// How much had happened in all records before.
    pub before: u64,
    /// How much has happened in this one.
    pub count: u64,
    pub workspace: String,
    pub run: String,
    /// Of the first and the last of them, in milliseconds since 1970.
    pub first_millis: u64,
    pub last_millis: u64,
    pub what: Happened,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happened {
    /// The newest of them.
    Denied(Denial),
    Used(Use),
    /// Denials that were too many to be told apart.
    DenialsLeftOut,
    UsesLeftOut,
}

/// The value of a secret was put on requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Use {
    /// The names of the binding and of the secret.
    pub credential: String,
    pub secret: String,
    pub host: String,
    pub port: u16,
    /// Method and path, without the query, of the first few that differ.
    pub requests: Vec<String>,
    /// Others, which are not listed.
    #[serde(default)]
    pub more: u64,
}
