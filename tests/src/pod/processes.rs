//! What the node's `/proc` says of the processes in a pod.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

use crate::process;

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: i32,
    pub line: String,
    status: BTreeMap<String, String>,
}

impl Process {
    /// Reads a process; `None` when it has ended meanwhile.
    pub fn read(pid: i32) -> Option<Self> {
        let status = parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?);
        Some(Self { pid, line: process::command_line(pid).unwrap_or_default(), status })
    }

    /// A field of `/proc/<pid>/status`.
    pub fn field(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    /// Its real, effective, saved and file system user, all of which must be the same.
    pub fn uid(&self) -> Result<u32> {
        let all: Vec<&str> = self.field("Uid").split_whitespace().collect();
        let first = all.first().with_context(|| format!("process {} has no user", self.pid))?;
        anyhow::ensure!(
            all.iter().all(|uid| uid == first),
            "process {} has several users: {all:?}",
            self.pid
        );
        Ok(first.parse()?)
    }

    /// A capability set: `CapEff`, `CapBnd`, …
    pub fn capabilities(&self, set: &str) -> Result<u64> {
        u64::from_str_radix(self.field(set), 16)
            .with_context(|| format!("reading {set} of process {}", self.pid))
    }

    pub fn parent(&self) -> Option<i32> {
        self.field("PPid").parse().ok()
    }

    pub fn is_zombie(&self) -> bool {
        self.field("State").starts_with('Z')
    }
}

fn parse(status: &str) -> BTreeMap<String, String> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// A process and all below it.
pub fn tree(root: i32) -> Vec<Process> {
    let all: Vec<Process> = process::processes().into_iter().filter_map(Process::read).collect();
    let mut found: Vec<Process> = all.iter().filter(|process| process.pid == root).cloned().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).map(|process| process.pid) {
        found.extend(all.iter().filter(|process| process.parent() == Some(parent)).cloned());
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_status_is_understood() {
        let own = i32::try_from(std::process::id()).expect("a pid");
        let tree = tree(own);
        let process = tree.first().expect("ourselves");
        assert_eq!(process.pid, own);
        assert_eq!(process.uid().ok(), Some(nix::unistd::getuid().as_raw()));
        assert!(process.capabilities("CapBnd").is_ok() && !process.is_zombie());
        assert_eq!(process.field("Nonsense"), "");
    }
}
